"""The grid search against a quadratic whose best learning rate is known."""

import json
import math
import shutil
import sys

import gin
import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tf_amalgam import bindings, evaluation, records, rules, tuning
from tf_amalgam.numerics import derive_seed

# Curvatures of the quadratic run from μ to L; SGD converges fastest at 2/(L + μ).
MU, L = 0.1, 1.0
BEST = 2 / (L + MU)
GRID = (1.95, 0.5, BEST, 1.0)
EPOCHS = 20  # one step each
OPTIONS = {"seeds": (0, 1), "epochs": EPOCHS, "warmup_steps": 0, "progress": False}


def quadratic():
    return tf_amalgam.tasks.quadratic(dimensions=4, condition=L / MU)


def closed_form(rate, seed):
    """½ eᵀA(I − lr·A)²ⁿe, e the error of the initial parameters."""
    task = quadratic()
    x, y = (np.asarray(part, "float64") for part in task.dataset.train)
    a = x.T @ x / len(x)
    start, _ = task.initial(derive_seed(seed, "initial", task.name))
    error = start[:, None] - np.linalg.solve(a, x.T @ y / len(x))
    error = np.linalg.matrix_power(np.eye(4) - rate * a, EPOCHS) @ error
    return (0.5 * error.T @ a @ error).item()


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("grid")
    found = tf_amalgam.grid_search(
        quadratic(), ["sgd"], workdir=folder, learning_rates=GRID, **OPTIONS
    )
    return found, folder


@pytest.fixture
def copied(searched, tmp_path):
    """The finished search's folder, free to be changed."""
    shutil.copytree(searched[1], tmp_path / "grid")
    return tmp_path / "grid"


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


def test_finds_the_best_rate_of_a_quadratic(searched):
    found, _ = searched
    assert found.teachers == (rules.SGD(BEST),)
    assert found.at_edge == ()
    assert list(found.losses["sgd"]) == sorted(GRID)
    for rate, loss in found.losses["sgd"].items():
        expected = np.mean([closed_form(rate, seed) for seed in (0, 1)])
        assert loss == pytest.approx(expected, rel=0.01)


def test_finished_runs_are_kept(searched, copied, monkeypatch):
    trained = []

    def train_once(optimizer, *arguments):
        trained.append(float(optimizer.learning_rate))
        return untouched(optimizer, *arguments)

    untouched = evaluation.train_once
    monkeypatch.setattr(evaluation, "train_once", train_once)
    options = {"workdir": copied, **OPTIONS}
    again = tf_amalgam.grid_search(quadratic(), ["sgd"], learning_rates=GRID, **options)
    assert again == searched[0]
    assert not trained
    wider = tf_amalgam.grid_search(
        quadratic(), ["sgd"], learning_rates=(*GRID, 0.25), **options
    )
    assert trained == [0.25, 0.25]
    assert wider.teachers == again.teachers


def test_the_loss_after_the_last_epoch_decides(searched, copied):
    """Not the lowest on the way there."""
    for seed in (0, 1):
        path = records.record_path(copied, "quadratic_4", f"sgd-{BEST}", seed)
        record = json.loads(path.read_text())
        record["curves"]["val_loss"][0] = 1e-9
        record["curves"]["val_loss"][-1] = 1e3
        path.write_text(json.dumps(record))
    found = tf_amalgam.grid_search(
        quadratic(), ["sgd"], workdir=copied, learning_rates=GRID, **OPTIONS
    )
    assert found.losses["sgd"][BEST] == 1e3
    assert found.teachers[0].learning_rate != BEST


@pytest.mark.parametrize("grid", [(0.5, 1.0), (BEST, 1.95)])
def test_a_best_rate_at_the_edge_is_said(copied, caplog, grid):
    found = tf_amalgam.grid_search(
        quadratic(), ["sgd"], workdir=copied, learning_rates=grid, **OPTIONS
    )
    assert found.at_edge == ("sgd",)
    assert "lies at the edge of the grid" in caplog.text
    assert "at the edge of the grid" in (copied / "pool.gin").read_text()


def test_no_warning_inside_the_grid_or_without_one(copied, caplog):
    for grid in (GRID, (BEST,)):
        tf_amalgam.grid_search(
            quadratic(), ["sgd"], workdir=copied, learning_rates=grid, **OPTIONS
        )
    assert not caplog.text


def test_a_rate_that_diverged_with_one_seed_is_not_chosen(copied):
    path = records.record_path(copied, "quadratic_4", f"sgd-{BEST}", 1)
    path.write_text(json.dumps({**json.loads(path.read_text()), "diverged": True}))
    found = tf_amalgam.grid_search(
        quadratic(), ["sgd"], workdir=copied, learning_rates=GRID, **OPTIONS
    )
    assert found.losses["sgd"][BEST] == math.inf
    finite = {k: v for k, v in found.losses["sgd"].items() if k != BEST}
    assert found.teachers[0].learning_rate == min(finite, key=finite.__getitem__)
    assert "| diverged " in (copied / "grid.md").read_text()


def test_a_rate_that_fails_costs_no_other_its_place_in_the_table(copied, monkeypatch):
    records.record_path(copied, "quadratic_4", f"sgd-{BEST}", 1).unlink()

    def failing(*_):
        raise ZeroDivisionError("no memory")

    monkeypatch.setattr(evaluation, "train_once", failing)
    (copied / "pool.gin").unlink()
    with pytest.raises(RuntimeError, match="1 of 8 runs failed"):
        tf_amalgam.grid_search(
            quadratic(), ["sgd"], workdir=copied, learning_rates=GRID, **OPTIONS
        )
    told = (copied / "grid.md").read_text()
    assert "missing" in told
    assert told.count("**") == 2
    assert not (copied / "pool.gin").exists()


def test_where_all_runs_fail_the_message_is_theirs(tmp_path, monkeypatch):
    def failing(*_):
        raise ZeroDivisionError("no memory")

    monkeypatch.setattr(evaluation, "train_once", failing)
    with pytest.raises(RuntimeError, match="4 of 4 runs failed"):
        tf_amalgam.grid_search(
            *(quadratic(), ["sgd", "adam"]),
            **{**OPTIONS, "seeds": 0, "workdir": tmp_path, "learning_rates": (0.5, 1)},
        )
    assert (tmp_path / "grid.md").read_text().count("missing") == 4


def test_all_rates_diverged(tmp_path):
    with pytest.raises(RuntimeError, match="Every learning rate of sgd diverged: 1e"):
        tf_amalgam.grid_search(
            quadratic(),
            ["sgd"],
            workdir=tmp_path,
            learning_rates=[1e30],
            **{**OPTIONS, "seeds": 0},
        )
    assert "**diverged**" not in (tmp_path / "grid.md").read_text()
    assert (tmp_path / "grid.png").is_file()
    assert not (tmp_path / "pool.gin").exists()


def test_other_hyperparameters_are_no_finished_run(copied):
    options = {"workdir": copied, "learning_rates": [0.5], **OPTIONS}
    tf_amalgam.grid_search(quadratic(), ["momentum"], **options)
    with pytest.raises(ValueError, match="normalizer: bias_corrected there, none here"):
        tf_amalgam.grid_search(
            quadratic(),
            [rules.Momentum(learning_rate=1.0, normalizer="none")],
            **options,
        )


def test_the_pool_file_holds_what_was_tuned(tmp_path):
    """Included by an experiment, it gives the same teachers."""
    found = tf_amalgam.grid_search(
        helpers.tiny_task(),
        ["sgd", "rmsprop", rules.Adam(1.0, beta_1=0.8)],
        workdir=tmp_path,
        learning_rates=[0.01, 0.1],
        preset="released",
        seeds=0,
        epochs=1,
        warmup_steps=1,
        progress=False,
    )
    assert [rule.name for rule in found.teachers] == ["sgd", "rmsprop", "adam"]
    assert (found.teachers[1].beta_2, found.teachers[1].normalizer) == (0.9, "none")
    assert found.teachers[2].beta_1 == 0.8
    experiment = tmp_path / "mine.gin"
    experiment.write_text(f'include "{tmp_path}/pool.gin"\namalgamate.alpha = 0.2\n')
    bindings.parse([experiment])
    assert gin.get_bindings("amalgamate")["teachers"] == list(found.teachers)
    text = (tmp_path / "pool.gin").read_text()
    for part in ("tiny (blobs)", "1 epochs", "seeds [0]", "0.01, 0.1", "released"):
        assert part in text


@pytest.mark.slow
def test_keras_optimizers_get_the_same_budget(searched, tmp_path):
    """Keras' SGD is ours, so its losses are; its macro gives what was tuned."""
    found = tf_amalgam.grid_search(
        quadratic(),
        ["keras.SGD"],
        workdir=tmp_path,
        learning_rates=(1.0, BEST),
        **OPTIONS,
    )
    assert found.teachers == (tf_amalgam.KerasOptimizer("SGD", BEST),)
    for rate in (1.0, BEST):
        ours = searched[0].losses["sgd"][rate]
        assert found.losses["SGD"][rate] == pytest.approx(ours, rel=1e-4)
    comparison = tmp_path / "mine.gin"
    comparison.write_text(
        f'include "{tmp_path}/pool.gin"\nevaluate.optimizers = {{"SGD": %tuned_SGD}}\n'
    )
    bindings.parse([comparison])
    made = gin.get_bindings("evaluate")["optimizers"]["SGD"]
    assert made == found.teachers[0]
    assert "amalgamate.teachers" not in (tmp_path / "pool.gin").read_text()


@pytest.mark.slow
def test_teachers_and_keras_optimizers_in_one_search(tmp_path):
    found = tf_amalgam.grid_search(
        quadratic(),
        ["sgd", tf_amalgam.KerasOptimizer("Lion")],
        workdir=tmp_path,
        learning_rates=[0.01, 0.1],
        **{**OPTIONS, "seeds": 0},
    )
    assert [one.name for one in found.teachers] == ["sgd", "Lion"]
    text = (tmp_path / "pool.gin").read_text()
    assert "amalgamate.teachers = [\n    @rules.sgd(),\n]" in text
    assert "tuned_Lion = @Lion/KerasOptimizer()" in text


def test_table_by_hand():
    losses = {"adam": {0.1: 0.25, 1.0: 1.5}, "sgd": {0.1: math.inf, 1.0: 2e10}}
    assert tuning.table(losses, "Loss").splitlines() == [
        "Loss, by learning rate.",
        "",
        "| teacher | 0.1      | 1.0       |",
        "|---------|----------|-----------|",
        "| adam    | **0.25** | 1.5       |",
        "| sgd     | diverged | **2e+10** |",
    ]


class Mine(rules.SGD):
    """A rule of the user's own."""

    name = "mine"


def test_table_of_a_private_optimizee_by_hand():
    losses = {"adam": {0.1: 0.25}, "sgd": {0.1: math.inf}}
    epsilons = {"adam": "1.20 (delta 1e-05)", "sgd": "∞"}
    assert tuning.table(losses, "Loss", epsilons).splitlines() == [
        "Loss, by learning rate. Epsilon is of one run; choosing among the runs is not "
        "in it.",
        "",
        "| teacher | 0.1      | epsilon            |",
        "|---------|----------|--------------------|",
        "| adam    | **0.25** | 1.20 (delta 1e-05) |",
        "| sgd     | diverged | ∞                  |",
    ]


@pytest.mark.slow
@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="tensorflow-privacy needs Python < 3.12"
)
def test_a_private_search_says_epsilon(tmp_path):
    task = tf_amalgam.tasks.private(helpers.tiny_task(), noise_multiplier=2.0)
    options = {**OPTIONS, "seeds": 0, "epochs": 1}
    tf_amalgam.grid_search(
        task, ["sgd", "adam"], workdir=tmp_path, learning_rates=[0.01, 0.1], **options
    )
    lines = (tmp_path / "grid.md").read_text().splitlines()
    assert "Epsilon is of one run" in lines[0]
    assert lines[2].strip("| ").endswith("epsilon")
    spent = task.privacy_report(12)["epsilon"]  # 96 examples in minibatches of 8
    for line in lines[4:]:
        assert line.strip("| ").endswith(f"{spent:.2f} (delta 1e-05)")
    assert len(lines[4:]) == 2


def test_one_optimizee_at_a_time(tmp_path):
    with pytest.raises(
        ValueError, match=r"optimizee is a tf_amalgam.Task.*received \["
    ):
        tf_amalgam.grid_search([quadratic()], ["sgd"], workdir=tmp_path)


@pytest.mark.parametrize(
    ("teachers", "rates", "message"),
    [
        (["sgd"], [], "at least one learning rate"),
        (["sgd"], [0.1, -0.1], "above 0, received -0.1"),
        (["sgd"], [float("nan")], "above 0, received nan"),
        (["sgd"], [math.inf], "above 0, received inf"),
        (["sgd"], ["0.1"], "above 0, received '0.1'"),
        (["sgd"], [0.1, 1, 1.0], "stands twice in the grid"),
        (["sgd", rules.RNNProp()], [0.1], "holds analytic rules.*received RNNProp"),
        ([Mine(0.1)], [0.1], "mine is a rule that .gin files do not know"),
        (["rnnprop"], [0.1], "Unknown teacher 'rnnprop'"),
        (["sgd", "sgd"], [0.1], "stands twice"),
        (["adam", rules.Adam(0.3)], [0.1], "adam stands twice among the teachers"),
        (["keras.Adma"], [0.1], "Unknown Keras optimizer 'Adma'"),
        (["keras.Lion", "keras.Lion"], [0.1], "Lion stands twice"),
        ([], [0.1], "at least one teacher"),
    ],
)
def test_mistakes_are_explained_before_any_work(teachers, rates, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tf_amalgam.grid_search(
            quadratic(), teachers, workdir=tmp_path, learning_rates=rates, **OPTIONS
        )
    assert not list(tmp_path.iterdir())
