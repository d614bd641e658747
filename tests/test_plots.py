"""Figures draw what they are given."""

from tf_amalgam import plots

ROW = {"meta_loss": -0.5, "distance/adam": 1.0, "farthest/adam": 1.0}


def test_meta_training_draws_any_history(tmp_path):
    histories = {
        "empty": ((), ()),
        "whole": (
            [{"update": i, **ROW} for i in range(1, 30)],
            [{"update": 0, "score": float("inf")}, {"update": 10, "score": -1.0}],
        ),
        "no teachers": (
            [{"update": 1, "meta_loss": 0.1}],
            [{"update": 0, "score": 0.1}],
        ),
    }
    sizes = {}
    for name, (history, validations) in histories.items():
        path = tmp_path / f"{name}.png"
        plots.meta_training(history, validations, path)
        assert path.read_bytes()[:4] == b"\x89PNG"
        sizes[name] = path.stat().st_size
    assert sizes["whole"] > sizes["empty"]


def test_losses_by_learning_rate_draws_what_diverged_too(tmp_path):
    inf = float("inf")
    losses = {"adam": {0.1: 0.5, 1.0: inf}, "sgd": {0.1: inf, 1.0: inf}}
    for name, given in (("some", losses), ("none", {"sgd": losses["sgd"]})):
        path = tmp_path / f"{name}.png"
        plots.loss_by_learning_rate(given, path, "title")
        assert path.read_bytes()[:4] == b"\x89PNG"
