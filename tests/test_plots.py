"""Figures draw what they are given."""

import numpy as np
import pytest

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


@pytest.mark.parametrize("first", [-1.6, 0.3, 13.7, 400.0])
def test_validations_can_be_read_off(first, monkeypatch):
    """At least two numbers stand beside what is drawn, wherever it begins."""
    drawn = []
    monkeypatch.setattr(plots, "write", lambda figure, path: drawn.append(figure))
    points = [(0, first), (10, -1.7), (20, -2.2)]
    plots.validations({"mine": points}, "v.png")
    rows = [{"update": update, "score": score} for update, score in points]
    plots.meta_training([{"update": 1, "meta_loss": -0.2}], rows, "m.png")
    for axis in (drawn[0].axes[0], drawn[1].axes[3]):
        low, high = axis.get_ylim()
        assert low <= -2.2
        assert high >= first
        assert sum(low <= tick <= high for tick in axis.get_yticks()) >= 2


def test_no_two_of_many_optimizers_look_alike():
    looks = [tuple(plots._look(i).values()) for i in range(100)]
    assert len(set(looks)) == 100


def test_losses_by_learning_rate_draws_what_diverged_too(tmp_path):
    inf = float("inf")
    losses = {"adam": {0.1: 0.5, 1.0: inf}, "sgd": {0.1: inf, 1.0: inf}}
    for name, given in (("some", losses), ("none", {"sgd": losses["sgd"]})):
        path = tmp_path / f"{name}.png"
        plots.loss_by_learning_rate(given, path, "title")
        assert path.read_bytes()[:4] == b"\x89PNG"


def records(optimizers, tasks):
    """Returns a run of each, the last optimizer's diverged."""
    return [
        {
            "task": f"task {task}",
            "optimizer": f"optimizer $x_{i}",
            "curves": {"val_loss": [1.0, 0.5 + 0.01 * i, 0.2]},
            "diverged": i == optimizers - 1,
        }
        for task in tasks
        for i in range(optimizers)
    ]


@pytest.mark.parametrize(("optimizers", "tasks"), [(8, 4), (9, 4), (25, 4), (25, 1)])
def test_learning_curves_of_many_optimizers_stay_readable(
    optimizers, tasks, monkeypatch
):
    """Panels keep their size, and a legend of many lies over none of them."""
    drawn = []
    monkeypatch.setattr(plots, "write", lambda figure, path: drawn.append(figure))
    plots.learning_curves(records(optimizers, range(tasks)), "curves.png")
    (figure,) = drawn
    figure.draw_without_rendering()
    panels = [axis for axis in figure.axes if axis.get_visible()]
    assert len(panels) == tasks
    boxes = [axis.get_window_extent() for axis in panels]
    assert all(box.width > 200 and box.height > 150 for box in boxes)
    if optimizers == 8:
        assert not figure.legends
        assert all(axis.get_legend() for axis in panels)
        return
    (legend,) = figure.legends
    place = legend.get_window_extent()
    assert not any(place.overlaps(box) for box in boxes)
    assert figure.bbox.x0 <= place.x0 <= place.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= place.y0
    labels = [text.get_text() for text in legend.get_texts()]
    assert len(labels) == optimizers
    assert labels[-1].endswith(f"({tasks} diverged)")
    looks = {(h.get_color(), h.get_linestyle()) for h in legend.legend_handles}
    assert len(looks) == optimizers


def test_logarithmic_axes_have_plain_numbers():
    figure, axes = plots.canvas(1, 1)
    axes[0][0].plot([1, 2], [0.04, 0.3])
    axes[0][0].set_yscale("log")
    plots.plain_numbers(axes[0][0].yaxis)
    figure.draw_without_rendering()
    told = [tick.get_text() for tick in axes[0][0].get_yticklabels()]
    assert {"0.05", "0.1", "0.2"} <= set(told)


def test_a_figure_is_laid_out_before_it_is_drawn(tmp_path):
    """Labels of one panel do not lie over another."""
    figure, ((left, right),) = plots.canvas(1, 2)
    right.set_ylabel("many\n" * 12)
    plots.write(figure, tmp_path / "a.png", tmp_path / "a.svg")
    figure.draw_without_rendering()  # SVG has other dots
    label = right.yaxis.label.get_window_extent()
    assert label.x0 > left.get_window_extent().x1
    assert all((tmp_path / f"a{kind}").stat().st_size for kind in (".png", ".svg"))


@pytest.fixture
def drawn(monkeypatch):
    """Returns the list of figures, of which none is written."""
    figures = []
    monkeypatch.setattr(plots, "write", lambda figure, _: figures.append(figure))
    return figures


def test_lines_are_means_of_seeds(drawn):
    records = [
        {
            "task": "Train",
            "optimizer": "adam",
            "seed": seed,
            "replicate": 0,
            "diverged": False,
            "curves": {"val_loss": losses},
        }
        for seed, losses in enumerate(([3.0, 2.0], [1.0, 0.5]))
    ]
    plots.learning_curves(records, "curves.png")
    axis = drawn[0].axes[0]
    assert list(axis.lines[0].get_ydata()) == [2.0, 1.25]


def test_each_panel_mixes_for_its_tensor(drawn):
    trace_TNK = np.array([[[0.25, 0.75], [0.9, 0.1]], [[0.5, 0.5], [0.6, 0.4]]])
    plots.mixing(trace_TNK, ["kernel", "bias"], ["adam", "sgd"], "mixing.png")
    for n, axis in enumerate(drawn[0].axes[:2]):
        (first, *_) = axis.collections
        heights = {tuple(point) for point in first.get_paths()[0].vertices.tolist()}
        for t in range(2):
            assert any(
                x == t + 1 and y == pytest.approx(trace_TNK[t, n, 0])
                for x, y in heights
            )
