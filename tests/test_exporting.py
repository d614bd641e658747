"""A trained optimizer with its card, to hand on."""

import csv
import json
import math
import shutil

import gin
import numpy as np
import pytest

import tf_amalgam
from tests import helpers
from tests.test_gin import TINY
from tests.test_reporting import few, record, written
from tf_amalgam import (
    bindings,
    cards,
    exporting,
    files,
    importing,
    reached,
    reporting,
    saved,
)
from tf_amalgam.workdir import Busy

FILES = ["gin_configs/experiments/quickstart.gin"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of an Optimal Choice run."""
    folder = tmp_path_factory.mktemp("run")
    lines = [
        *TINY,
        "amalgamate.task = @tasks.quadratic()",
        "amalgamate.scheme = 'choice'",
        "data_dir = '/home/me'",
        "Train/tasks.conv.data_dir = '/home/me'",
    ]
    with helpers.eagerly():
        bindings.run("amalgamate", FILES, lines, folder)
        gin.clear_config()
    return folder


@pytest.fixture
def replicates(run, tmp_path):
    """Three of them, the second one the best; the last one's score is lost."""
    rule, weights, header = saved.read(run)
    for i, score in enumerate((-0.5, -1.5, math.nan)):
        folder = tmp_path / f"replicate-{i}"
        shutil.copytree(run, folder)
        saved.save(
            folder / "student.npz",
            rule,
            {**weights, "head/bias": np.array([float(i)])},
            warmup_steps=header["warmup_steps"],
            warmup_learning_rate=header["warmup_learning_rate"],
            about={**header["about"], "best_validation": score, "seed": i},
        )
    return tmp_path


def strict(path):
    def refuse(token):
        raise AssertionError(token)

    return json.loads(path.read_text(), parse_constant=refuse)


def test_a_run_becomes_four_files(run, tmp_path):
    output = tmp_path / "out" / "mine.npz"
    card = tf_amalgam.export(run, output, licence="CC0-1.0")
    names = {path.name for path in output.parent.iterdir()}
    assert names == {"mine.npz", "mine.md", "mine.json", "mine.png"}
    rule, weights, header = saved.read(run)
    again, same, told = saved.read(output)
    assert again == rule
    np.testing.assert_array_equal(helpers.flat(same), helpers.flat(weights))
    assert told["warmup_steps"] == header["warmup_steps"]
    assert tf_amalgam.load(output).warmup_steps == header["warmup_steps"]
    # What the folder says, and nothing of where somebody's data lie.
    assert (card.name, card.sha256) == ("mine", header["sha256"])
    assert (card.licence, card.preset, card.seed) == ("CC0-1.0", "paper", 0)
    assert 0 < card.hours < 0.1
    assert "CPU cores" in card.machine
    assert card.command.startswith(f"amalgamate --gin_file={FILES[0]} --workdir=FOLDER")
    assert "'--gin_bindings=amalgamate.stages = [(4, 1)]'" in card.command
    assert "/home/me" not in card.command
    rows = files.read_csv(run / "validation.csv")
    assert [r["score"] for r in card.validations] == [r["score"] for r in rows]
    page = (output.parent / "mine.md").read_text()
    assert page.startswith("# mine\n\nrnnprop, taught by optimal choice of adam, rms")
    for line in (f"| {card.sha256} ", "(mine.png)", card.command):
        assert line in page
    assert "Results" not in page
    read = strict(output.parent / "mine.json")
    assert read["what"] == card.what
    assert read["validations"] == [dict(row) for row in card.validations]
    # The file tells it all again.
    assert tf_amalgam.card(output).command == card.command


def test_weights_that_training_began_with_are_said(run, tmp_path):
    first = saved.read(run)[2]["sha256"]
    lines = [*TINY, "amalgamate.task = @tasks.quadratic()"]
    lines.append(f"amalgamate.initial_weights = '{run}/student.npz'")
    with helpers.eagerly():
        bindings.run("amalgamate", FILES, lines, tmp_path / "again")
        gin.clear_config()
    card = exporting.export(tmp_path / "again", tmp_path / "again.npz")
    assert card.facts()["begun from"] == f"trained ones, SHA-256 {first}"
    assert "begun from" not in exporting.export(run, tmp_path / "run.npz").facts()
    assert str(run) not in (tmp_path / "again.md").read_text()
    about = saved.read(tmp_path / "again.npz")[2]["about"]
    assert about["initial_weights"] == {"path": "student.npz", "sha256": first}


def test_a_command_names_a_shipped_optimizer_but_no_path(tmp_path):
    lines = ["data_dir = '/home/me'", "amalgamate.initial_weights = 'me/mine.npz'"]
    lines.append("amalgamate.choice = '/home/me/run/choice'")
    kept = ['amalgamate.initial_weights = "min-max-small"', "amalgamate.seed = 3"]
    kept.append("amalgamate.choice = {'rate_range': 3.0}")
    kept.append("amalgamate.choice = @rules.choice()")
    kept.append("amalgamate.choice = 'choice-rule-small'")
    paths = ["/home/me/mine.gin", "gin_configs/forms/cpu.gin"]
    made = {"gin_files": paths, "gin_bindings": [*lines, *kept]}
    (tmp_path / exporting.MADE_FILE).write_text(json.dumps(made))
    told = exporting._made(tmp_path, "")["made"]
    assert told["gin_bindings"] == kept
    assert told["gin_files"] == ["mine.gin", "gin_configs/forms/cpu.gin"]


def test_the_choice_rule_of_a_run(run, tmp_path):
    card = exporting.export(run, tmp_path / "rule.npz", part="choice")
    assert card.what == "a Choice rule that mixes adam, rmsprop"
    assert card.command.endswith("  # its folder choice")
    assert card.seed == 0  # what its own comes from
    assert card.sha256 == saved.read(run / "choice")[2]["sha256"]


def test_the_best_of_replicates(replicates, tmp_path):
    card = exporting.export(replicates, tmp_path / "out" / "best.npz")
    assert saved.read(tmp_path / "out" / "best.npz")[1]["head/bias"] == [1.0]
    assert [row["chosen"] for row in card.replicates] == [False, True, False]
    assert card.facts()["training"].endswith("the best of 3 replicates")
    page = (tmp_path / "out" / "best.md").read_text()
    assert (
        "\n| 1 (this one) | 1    | 2            | -1.500          | yes      |\n"
        in page
    )
    read = strict(tmp_path / "out" / "best.json")
    assert [r["best_validation"] for r in read["replicates"]] == [-0.5, -1.5, None]


def test_one_that_has_finished_is_better_than_a_better_one_that_has_not(
    replicates, tmp_path
):
    """It was stopped, or diverged."""
    table = replicates / "replicate-1" / "validation.csv"
    table.write_text(table.read_text().replace("finish", "go on"))
    card = exporting.export(replicates, tmp_path / "best.npz")
    assert [row["chosen"] for row in card.replicates] == [True, False, False]
    assert [row["finished"] for row in card.replicates] == [True, False, True]


def test_of_those_that_have_not_finished_the_one_that_came_farthest(
    replicates, tmp_path
):
    """A score of another stage, of shorter unrolls say, does not compare.

    The third one never had any.
    """
    for i, stage in enumerate(("1", "0", "2")):
        table = replicates / f"replicate-{i}" / "validation.csv"
        with table.open(newline="") as file:
            rows = list(csv.DictReader(file))
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows({**row, "stage": stage, "then": "go on"} for row in rows)
    card = exporting.export(replicates, tmp_path / "best.npz")
    assert [row["chosen"] for row in card.replicates] == [True, False, False]
    assert [row["stage"] for row in card.replicates] == [1, 0, 2]


def test_no_replicate_can_be_read(replicates, tmp_path):
    for student in replicates.glob("*/student.npz"):
        student.write_text("damaged")
    with pytest.raises(FileNotFoundError, match="has readable results"):
        exporting.export(replicates, tmp_path / "best.npz")
    assert not (tmp_path / "best.npz").exists()


def test_results_of_an_evaluation(run, tmp_path):
    """Means of the records, the oracle beside them; of no other weights."""
    sha256 = saved.read(run)[2]["sha256"]
    found = few() + [record("Train", "sgd", 0, seed) for seed in (0, 1)]
    for one in found:
        if one["optimizer"] == "ours":
            one["optimizer_config"] = {"weights_sha256": sha256}
        known = {"ours": 0.4 + 0.2 * one["seed"], "adam": 0.4, "sgd": 0.45}
        last = known[one["optimizer"]]
        losses = one["curves"]["val_loss"]
        losses[:] = [*[0.9] * (len(losses) - 1), last]
        one["constant_loss"] = 1.0
    folder = written(found, tmp_path / "evaluation")
    given = {"evaluation": folder, "rivals": ["sgd"]}
    output = tmp_path / "mine.npz"
    card = exporting.export(run, output, label="ours", **given)
    (row,) = card.results
    assert row["validation_loss"] == pytest.approx(0.5)
    assert (row["oracle"], row["rival"], row["seeds"]) == ("adam", "sgd", 2)
    assert row["oracle_loss"] == pytest.approx(0.4)
    assert reached.failures(card) == ["Train: 25.0% above adam, the oracle"]
    page = output.with_suffix(".md").read_text()
    cells = [cell.strip() for cell in page.split("| Train ")[1].split("|")]
    assert cells[1] == "0.5000 ± 0.1414"
    assert cells[4:7] == ["0 of 2", "adam 0.4000", "sgd 0.4500"]
    assert "\n- Train: 25.0% above adam, the oracle\n" in page
    with pytest.raises(
        ValueError, match="no records of 'mine' .*It has adam, sgd, ours"
    ):
        exporting.export(run, output, **given)
    with pytest.raises(
        ValueError, match="no records of her. There are: adam, sgd, ours"
    ):
        exporting.export(run, output, label="ours", evaluation=folder, rivals=["her"])
    with pytest.raises(ValueError, match="no records of 'ours' with the weights"):
        exporting.export(run, output, label="ours", part="choice", **given)
    with pytest.raises(ValueError, match="rivals are of an evaluation's records"):
        exporting.export(run, output, rivals=["adam"])


def test_other_replicates_under_one_label_are_left_out(run, tmp_path):
    found, sha256 = few(), saved.read(run)[2]["sha256"]
    for one in found:
        if one["optimizer"] == "ours":
            weights = sha256 if one["seed"] else "another's"
            one["optimizer_config"] = {"weights_sha256": weights}
            one["replicate"] = one["seed"]
    folder = written(found, tmp_path / "evaluation")
    card = exporting.export(run, tmp_path / "mine.npz", evaluation=folder, label="ours")
    assert [row["seeds"] for row in card.results] == [1]
    assert "best rival" not in (tmp_path / "mine.md").read_text()


def test_an_optimizee_without_a_rival():
    row = {"optimizee": "MLP", "validation_loss": 1.0, "validation_sd": "", "seeds": 1}
    row |= {"test_loss": 1.0, "test_accuracy": "", "diverged": 0, "epochs": 3}
    row |= {"oracle": "adam", "oracle_loss": 1.0, "rival": "", "rival_loss": ""}
    row |= {"not_learned": 0, "seed_numbers": "7"}
    row |= {
        "kind": "learned",
        "preset": "paper",
        "warmup_steps": 100,
        "warmup_learning_rate": 0.05,
    }
    other = {**row, "optimizee": "FMNIST", "rival": "her", "rival_loss": 0.5}
    page = exporting.markdown(cards.Card("m", "rnnprop", {}, results=(row, other)))
    assert "| adam 1.0000 | –          |" in page
    assert "| adam 1.0000 | her 0.5000 |" in page
    assert "None: all runs learned, and no mean is more than 10% above" in page
    assert "; seeds 7; losses at the best of 3 epochs" in page


def test_a_refused_call_leaves_what_made_a_folder(run):
    before = (run / "made.json").read_text()
    lines = ["amalgamate.task = @tasks.quadratic()", "amalgamate.alpha = 0.3"]
    with pytest.raises(ValueError, match="another experiment"):
        bindings.run("amalgamate", FILES, lines, run)
    gin.clear_config()
    assert (run / "made.json").read_text() == before


@pytest.mark.parametrize("error", [FileNotFoundError, ImportError, Busy])
def test_what_cannot_begin_leaves_what_made_a_folder(run, monkeypatch, error):
    """No data set, no package, or the folder is another process'."""

    def failing(**_):
        raise error("It is not here.")

    before = (run / "made.json").read_text()
    monkeypatch.setitem(bindings.REGISTERED, "amalgamate", failing)
    with pytest.raises(error):
        bindings.run("amalgamate", FILES, ["amalgamate.alpha = 0.3"], run)
    gin.clear_config()
    assert (run / "made.json").read_text() == before


def test_what_is_missing_is_said(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="no trained optimizer at"):
        exporting.export(tmp_path, tmp_path / "mine.npz")
    with pytest.raises(FileNotFoundError, match="no trained optimizer at .*/other"):
        exporting.export(run, tmp_path / "mine.npz", part="other")
    with pytest.raises(ValueError, match="output must end in .npz, received mine"):
        exporting.export(run, "mine")


def test_home_is_understood(run, tmp_path, monkeypatch):
    """As everywhere else in Python; shells leave ~ alone inside quotes."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run, tmp_path / "run")
    written(few(), tmp_path / "records")
    exporting.export("~/run", "~/out/mine.npz")
    assert (tmp_path / "out" / "mine.md").is_file()
    for evaluation in ("~/records", tmp_path / "records"):
        with pytest.raises(ValueError, match="It has adam, ours"):
            exporting.export(run, "~/other.npz", evaluation=evaluation)
    page = reporting.write_report("~/records", "~/report", markdown="~/page.md")
    assert page.parent == tmp_path / "report"
    assert (tmp_path / "page.md").is_file()
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "none")):
        importing.import_checkpoint("~/none", "~/imported.npz")
    assert not (tmp_path / "~").exists()


def test_no_failure_is_claimed_where_nothing_was_compared():
    row = {"optimizee": "Train", "optimizer": "mine", "kind": "learned", "seeds": 3}
    row |= {"epochs": 3, "diverged": 0, "validation_loss": 0.2, "validation_sd": 0.1}
    row |= {"test_loss": 0.2, "test_accuracy": 0.9, "oracle": "", "oracle_loss": ""}
    row |= {"preset": "paper", "warmup_steps": 1, "warmup_learning_rate": 0.1}
    row |= {"not_learned": 0, "seed_numbers": "0 1 2"}
    beside = {**row, "optimizee": "MLP", "oracle": "adam", "oracle_loss": 0.3}
    card = cards.Card("mine", "rnnprop", {}, results=(row,))
    assert exporting.markdown(card).endswith(
        "None: all runs learned; there was no oracle on Train.\n"
    )
    card = cards.Card("mine", "rnnprop", {}, results=(row, beside))
    assert exporting.markdown(card).endswith(
        "no mean is more than 10% above the oracle's; there was no oracle on Train.\n"
    )


def test_an_optimizee_of_which_every_run_diverged():
    nothing = ("validation_loss", "validation_sd", "test_loss", "test_accuracy")
    row = dict.fromkeys(nothing, "") | {"optimizee": "MLP", "optimizer": "mine"}
    row |= {"oracle": "adam", "oracle_loss": 0.25}
    row |= {"seeds": 3, "diverged": 3, "not_learned": 0}
    told = "MLP: – validation, – test, 3 diverged (3 seeds); oracle adam 0.2500"
    assert reached.result(row) == told


def test_diverged_runs_are_failures():
    row = {"optimizee": "MLP", "diverged": 1, "seeds": 3, "validation_loss": ""}
    row["not_learned"] = 0
    fine = {"optimizee": "CIFAR", "diverged": 0, "validation_loss": 1.05}
    fine |= {"oracle": "adam", "oracle_loss": 1.0, "not_learned": 0}
    alone = {"optimizee": "FMNIST", "diverged": 0, "oracle": "", "oracle_loss": ""}
    alone["not_learned"] = 0
    # Losses that may be below 0 have no ratio.
    below = {**fine, "validation_loss": -0.9, "oracle_loss": -0.5}
    card = cards.Card("mine", "rnnprop", {}, results=(row, fine, alone, below))
    told = ["MLP: 1 of 3 runs diverged"]
    assert reached.failures(card) == told
    older = tuple({**found, "not_learned": ""} for found in (fine, alone))
    card = cards.Card("mine", "rnnprop", {}, results=(row, *older))
    told.append("runs that did not learn: not counted on CIFAR, FMNIST")
    assert reached.failures(card) == told
    assert exporting.as_json(card)["known_failures"] == told
