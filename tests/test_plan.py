"""The optimizers that ship: what trains each, one after another."""

import errno
import pathlib
import subprocess
import sys

import gin
import pytest
import tensorflow as tf

import tf_amalgam
from tests.test_gin import SHORT, TINY
from tf_amalgam import bindings, engines, plan, saved
from tf_amalgam.meta_train import Trainer

ROOT = pathlib.Path(__file__).resolve().parents[1]
FORM = "gin_configs/forms/cpu.gin"


@pytest.fixture(autouse=True)
def cleared():
    yield
    gin.clear_config()


def test_all_that_ships_is_planned():
    entries = plan.entries()
    assert set(saved.shipped_names()) <= set(entries)
    for entry in entries.values():
        assert (ROOT / entry.gin_file).is_file()
        assert entry.run in entries
        assert entry.part in ("", "choice")


@pytest.mark.parametrize("form", ["cpu", "released"])
def test_every_entry_is_configured(form):
    for entry in plan.entries().values():
        bindings.parse([f"gin_configs/forms/{form}.gin", entry.gin_file])
        bindings.check_given("amalgamate")


def test_names_are_taken_in_the_plans_order():
    assert [e.name for e in plan.chosen([])] == list(plan.entries())
    some = plan.chosen(["rnnprop", "choice-large"])
    assert [entry.name for entry in some] == ["choice-large", "rnnprop"]
    with pytest.raises(ValueError, match=r"Unknown entry .*'rnnpop'.*'rnnprop'"):
        plan.chosen(["rnnpop"])


def test_replicates_take_up_what_the_flags_say(tmp_path, monkeypatch):
    """On Ray: without it they would all be kept from GPUs."""
    seen = []
    monkeypatch.setattr(
        bindings.replicates, "run_replicates", lambda *_, **told: seen.append(told)
    )
    given = (["rnnprop"], [FORM], TINY, tmp_path, 2, engines.Local(2))
    bindings.train_zoo(*given, cpus=3.0, gpus=0.5)
    assert [(told["cpus"], told["gpus"]) for told in seen] == [(3.0, 0.5)]
    program = (
        "from absl import flags\n"
        "from tf_amalgam import bindings, plan\n"
        "from tf_amalgam_launch import train_zoo\n"
        "bindings.train_zoo = lambda *given: print(given[-2:])\n"
        "plan.standing = lambda _: ''\n"
        "words = '--workdir=w --replicates=2 --parallel=2 --gin_file=a --job_cpus=3'\n"
        "flags.FLAGS(['x', *words.split(), '--job_gpus=.5'])\n"
        "train_zoo.main()\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "(3.0, 0.5)"


def test_what_fails_does_not_hold_up_the_others(tmp_path, caplog):
    calls = []

    def one(file, folder):
        calls.append((pathlib.Path(file).stem, folder))
        if "figure1" in file:
            raise RuntimeError("10 meta-gradients in a row were not finite")
        if "rates" in file:
            raise ValueError("initial_weights: of another pool")

    names = ["rnnprop", "choice-small", "choice-rule-small", "stronger"]
    names += ["choice-rates-small"]
    message = (
        "These failed: choice-small; the same command continues .* again. These could "
        "not be trained: choice-rates-small; what was .* All others have ended"
    )
    with pytest.raises(RuntimeError, match=message):
        plan.train(names, tmp_path, one)
    assert calls == [
        ("figure1_choice_small", tmp_path / "choice-small"),
        ("choice_rule_rates", tmp_path / "choice-rates-small"),
        ("figure2_rnnprop", tmp_path / "rnnprop"),
        ("figure2_stronger", tmp_path / "stronger"),
    ]
    assert "choice-small: 10 meta-gradients" in caplog.text
    assert "choice-rates-small: initial_weights: of another" in caplog.text
    with pytest.raises(ValueError, match="Unknown entry"):
        plan.train(["rnnprop", "no"], tmp_path, one)
    assert len(calls) == 4


def test_a_replicate_that_diverged_does_not_keep_the_others(tmp_path, monkeypatch):
    def one(file, folder):
        raise RuntimeError("1 of 2 replicates failed")

    shipped = []
    finished = {"rnnprop": [True, False], "stronger": [False]}
    monkeypatch.setattr(
        plan.replicates,
        "fates",
        lambda run: [{"finished": there} for there in finished[run.name]],
    )
    monkeypatch.setattr(plan, "ship", lambda entry, *_: shipped.append(entry.name))
    with pytest.raises(RuntimeError, match="These failed: rnnprop, stronger"):
        plan.train(["rnnprop", "stronger"], tmp_path, one, into=tmp_path / "out")
    assert shipped == ["rnnprop"]


def test_whatever_fails_does_not_hold_up_the_others(tmp_path, monkeypatch, caplog):
    """No memory, a package that is not there, a card that cannot be written."""
    errors = {
        "figure2_rnnprop": tf.errors.ResourceExhaustedError(None, None, "no memory"),
        "figure2_stronger": ImportError("no privacy"),
    }
    calls, shipped = [], []

    def one(file, folder):
        calls.append(pathlib.Path(file).stem)
        if calls[-1] in errors:
            raise errors[calls[-1]]

    def ship(entry, *_):
        if entry.name == "mean-small":
            raise OSError(13, "Permission denied")
        shipped.append(entry.name)

    monkeypatch.setattr(plan, "ship", ship)
    names = ["rnnprop", "stronger", "mean-small", "scale"]
    message = "failed: rnnprop; .* be trained: stronger; .* not exported: mean-small;"
    with pytest.raises(RuntimeError, match=message):
        plan.train(names, tmp_path, one, into=tmp_path / "out")
    assert shipped == ["scale"]
    assert "mean-small cannot be exported: [Errno 13]" in caplog.text
    # But what all would meet.
    errors["figure2_rnnprop"] = OSError(errno.ENOSPC, "No space left")
    calls.clear()
    with pytest.raises(OSError, match="No space"):
        plan.train(names, tmp_path, one)
    assert calls == ["figure2_rnnprop"]


def test_where_to_export_is_tried_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    calls = []
    with pytest.raises(OSError, match="file"):
        plan.train([], tmp_path, lambda *_: calls.append(_), into=tmp_path / "file/out")
    assert not calls


LINES = [*TINY, *SHORT, "amalgamate.task = @tasks.quadratic()"]


def test_an_entry_and_its_choice_rule_are_trained_and_exported(
    tmp_path, eagerly, monkeypatch
):
    names = ["choice-small", "choice-rule-small"]
    runs, out = tmp_path / "runs", tmp_path / "out"
    train = lambda: bindings.train_zoo(names, [FORM], LINES, runs, into=out)  # noqa: E731
    train()
    for name, rule in (("choice-small", "rnnprop"), ("choice-rule-small", "choice")):
        card = tf_amalgam.card(out / f"{name}.npz")
        assert (card.rule, card.licence) == (rule, "Apache-2.0")
        assert f"--gin_file={FORM}" in card.command
        assert (out / f"{name}.md").is_file()
    told = plan.standing(runs).splitlines()
    (line,) = [row for row in told if row.startswith("| choice-small ")]
    assert "| finished, 2 meta-updates, best " in line
    (line,) = [row for row in told if row.startswith("| rnnprop ")]
    assert [cell.strip() for cell in line.split("|")[2:4]] == [
        "figure2_rnnprop",
        "not begun",
    ]
    # The same call again trains nothing.
    monkeypatch.setattr(Trainer, "step", None)
    train()


def test_what_cannot_be_read_is_listed_as_that(tmp_path):
    (tmp_path / "rnnprop").mkdir()
    (tmp_path / "rnnprop" / "student.npz").write_text("hello")
    told = plan.standing(tmp_path)
    assert told.count("not begun") == len(plan.entries()) - 1
    assert "| cannot be read (" in told


def test_replicates_of_an_entry(tmp_path, eagerly):
    bindings.train_zoo(
        ["rnnprop"], [FORM], LINES, tmp_path, count=2, into=tmp_path / "out"
    )
    card = tf_amalgam.card(tmp_path / "out" / "rnnprop.npz")
    assert len(card.replicates) == 2
    assert plan.standing(tmp_path).count("finished, 2 meta-updates") == 2


def test_mistakes_show_before_any_work(tmp_path):
    with pytest.raises(ValueError, match="Unknown entry of the plan"):
        bindings.train_zoo(["no"], [FORM], [], tmp_path / "runs")
    with pytest.raises(ValueError, match="alfa"):
        bindings.train_zoo([], [FORM], ["amalgamate.alfa = 1"], tmp_path / "runs")
    with pytest.raises(ValueError, match="No optimizee is given"):
        bindings.train_zoo([], [], [], tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
