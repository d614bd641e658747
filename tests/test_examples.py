"""The scripts of docs/examples, as a user starts them but shorter."""

import importlib.util
import pathlib

import numpy as np
import pytest

EXAMPLES = pathlib.Path(__file__).parents[1] / "docs" / "examples"


def example(name):
    """Returns a script as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_are_tested():
    tests = {name for name in globals() if name.startswith("test_")}
    assert {f"test_{path.stem}" for path in EXAMPLES.glob("*.py")} <= tests


def test_load_and_use(capsys):
    results, (loss, loaded) = example("load_and_use").main(epochs=5)
    assert all(0 < result < 2.0 for result in results.values())
    assert loss == loaded
    assert "SHA-256" in capsys.readouterr().out


@pytest.mark.slow
def test_amalgamate_my_model(tmp_path):
    main = example("amalgamate_my_model").main
    # Six epochs are 108 steps, of which the warm-up is 100.
    amalgam, found = main(tmp_path, stages=((100, 1, 0.1),), period=1, epochs=6)
    assert {r["optimizer"] for r in found} == {"student", "adam", "rmsprop"}
    assert len(found) == 9
    assert amalgam.finished
    assert (tmp_path / "amalgam" / "student.npz").is_file()
    assert (tmp_path / "grid" / "pool.gin").is_file()


def test_train_privately(capsys):
    if importlib.util.find_spec("tensorflow_privacy") is None:
        pytest.skip("tensorflow-privacy is not installed (it needs Python 3.11)")
    results = example("train_privately").main(epochs=2)
    assert all(loss < 2.3 for loss, _, _ in results.values())
    epsilons = {epsilon for _, _, epsilon in results.values()}
    assert len(epsilons) == 1
    assert 0 < epsilons.pop() < 10
    assert "epsilon" in capsys.readouterr().out


@pytest.mark.slow
def test_inspect_optimizer(tmp_path):
    sizes, shares = example("inspect_optimizer").main(tmp_path, epochs=3)
    assert all(len(of_epochs) == 3 for of_epochs in sizes.values())
    assert all(np.all(np.isfinite(s)) for epochs in sizes.values() for s in epochs)
    for step in shares:
        for share in step.values():
            assert share.sum() == pytest.approx(1.0, abs=1e-4)
    assert {path.name for path in tmp_path.glob("*.png")} == {"steps.png", "mixing.png"}
