"""Cards of optimizers, and the file of measured results behind them."""

import csv
import itertools
import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import types

import pandas as pd
import pytest

import tf_amalgam
from benchmarks import limits, zoo
from tests.test_exporting import written as recorded
from tests.test_reporting import planted
from tf_amalgam import cards, exporting, files, measured, plan, reached, rules, saved
from tf_amalgam.lineup import lineup

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHIPPED = saved.shipped_names()
STOPPED = "not finished (the command goes on where this was stopped)"
ENDED = {"then": "finish", "score": -1.0, "steps": 200}


def test_there_is_a_card_for_every_name_that_loads():
    found = tf_amalgam.available()
    assert tuple(found) == (*SHIPPED, *rules.TEACHERS)
    assert len(found) == len(SHIPPED) + len(rules.TEACHERS)
    assert "adam" in found
    assert "adan" not in found
    with pytest.raises(KeyError, match="Unknown optimizer 'adan'.*'adam'"):
        found["adan"]
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines] == list(found)
    told = [line.split(maxsplit=1)[1] for line in lines]
    assert len(set(told)) == len(told)  # each says what it is and no other
    (default,) = [line for line in lines if line.endswith("(the default)")]
    assert default.split()[0] == saved.DEFAULT == tf_amalgam.card().name
    assert repr(found) == str(found)


def test_a_file_that_is_damaged_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setattr(saved, "ZOO", tmp_path)
    lines = str(tf_amalgam.available()).splitlines()
    assert len(lines) == len(SHIPPED) + len(rules.TEACHERS)
    assert "cannot be loaded: " in lines[0]
    assert "there is no such file. Install tf_amalgam again" in lines[0]
    assert lines[-1].endswith("the analytic rule powersign")


@pytest.mark.parametrize("name", SHIPPED)
def test_what_ships_tells_where_it_comes_from(name):
    """Every command names gin files that there are, every hash is the file's."""
    card = tf_amalgam.available()[name]
    _, weights, header = saved.find(name)
    assert card.name == name
    assert card.sha256 == saved.digest(weights)
    terms = (card.validation_steps, card.validation_optimizees)
    assert terms in [(500, 2), (1000, 3), (None, 2)]
    assert (card.validation_steps is None) == (name == "choice-large")
    for key in header["hyperparameters"]:
        assert key in card.facts()["hyperparameters"]
    assert card.licence == "Apache-2.0"
    assert card.trained_on.startswith("Train (mnist, 18,122 parameters")
    about = header["about"]
    trained = about.get("initial_weights", "fresh") != "fresh"  # by another run
    assert (0 if trained else 1) <= card.meta_updates <= about["meta_updates"]
    assert -3.0 < card.validation < -1.0
    files = [
        part.partition("=")[2]
        for part in card.command.split()
        if part.startswith("--gin_file=")
    ]
    assert files
    for file in files:
        assert (ROOT / file).is_file()
    assert files[-1] == plan.entries()[name].gin_file
    assert card.command.startswith("amalgamate ")
    text = str(card)
    for told in (card.what.split()[-1], card.sha256, card.licence):
        assert told in text


def test_teachers_are_told_in_words():
    def what(name):
        return tf_amalgam.card(name).what

    assert what("choice-small") == "rnnprop, taught by optimal choice of adam, rmsprop"
    assert what("min-max-small-gaussian") == (
        "rnnprop, taught by min-max of adam, rmsprop, under noise "
        "(gaussian_relative 0.001)"
    )
    assert what("stronger") == "rnnprop, taught by adam"
    assert what("mean-forced-small") == (
        "rnnprop, taught by mean of adam, rmsprop, by teacher forcing alone"
    )
    assert what("rnnprop") == "rnnprop, without teachers"
    mixes = "a Choice rule that mixes adam, rmsprop"
    assert what("choice-rule-small") == mixes
    assert what("choice-rates-small") == f"{mixes}, with learned rates"
    assert what("choice-agreement-small") == (
        f"{mixes}, with learned rates that follow how far gradients agree"
    )
    assert tf_amalgam.card("choice-rule-large").teachers == rules.POOLS["large"]
    assert what("adam") == "the analytic rule adam"


def test_a_training_that_went_on_from_a_shipped_one_tells_of_it():
    """By hand: 592.9, 2,219.0 and 1,211.0 seconds, one after another."""
    card = tf_amalgam.card("choice-agreement-small")
    before = tf_amalgam.card("choice-rates-small")
    assert card.begun_from == f"choice-rates-small, SHA-256 {before.sha256}"
    first = tf_amalgam.card("choice-rule-small")
    assert before.begun_from == f"choice-rule-small, SHA-256 {first.sha256}"
    assert math.isnan(first.hours_before)
    assert card.hours_before == pytest.approx((592.9 + 2219.0) / 3600.0, rel=1e-4)
    training = card.facts()["training"]
    assert "20 minutes on 2 CPU cores (x86_64), 67 with what made the" in training
    told = card.facts()["meta-updates"]
    assert told.startswith("none of 2: what it began with was the best; log")
    assert told.endswith(" after 1000 steps, mean of 3 optimizees")


def test_trainings_may_go_round_and_files_be_damaged(tmp_path, monkeypatch):
    """One that ships, trained on from itself; one that began with a damaged file."""
    monkeypatch.setattr(saved, "ZOO", tmp_path)
    monkeypatch.setattr(saved, "check_shipped", lambda name: None)
    origin = {"path": "mean-small", "sha256": ""}
    path = written(tmp_path, {"initial_weights": origin, "seconds": 3600.0})
    origin["sha256"] = saved.read(path)[2]["sha256"]
    path = written(tmp_path, {"initial_weights": origin, "seconds": 3600.0})
    path.rename(tmp_path / "mean-small.npz")
    card = tf_amalgam.card("mean-small")
    assert card.begun_from == f"mean-small, SHA-256 {card.sha256}"
    assert math.isnan(card.hours_before)
    later = tf_amalgam.card(written(tmp_path, {"initial_weights": origin}))
    assert later.begun_from == card.begun_from
    (tmp_path / "mean-small.npz").write_text("damaged")
    later = tf_amalgam.card(tmp_path / "mine.npz")
    assert later.begun_from.startswith("other weights called mean-small, SHA-256")
    assert math.isnan(later.hours_before)


@pytest.mark.parametrize(
    ("origin", "told"),
    [
        ("fresh", ""),
        ({"path": "student.npz", "sha256": "ab"}, "trained ones, SHA-256 ab"),
        (
            {"path": "choice-small", "sha256": "ab"},
            "other weights called choice-small, SHA-256 ab",
        ),
    ],
)
def test_weights_that_a_training_began_with(tmp_path, origin, told):
    card = tf_amalgam.card(written(tmp_path, {"initial_weights": origin}))
    assert card.begun_from == told
    assert math.isnan(card.hours_before)


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({"meta_updates": 9}, "9; log change of held-out loss nan (lower is better)"),
        (
            {"best_after_meta_updates": 9, "meta_updates": 9},
            "9, the last of which were the best; log change of held-out loss nan",
        ),
        (
            {"best_after_meta_updates": 3, "meta_updates": 9},
            "the first 3 of 9; log change of ",
        ),
        ({"meta_updates": 0}, "0; log change of held-out loss nan (lower is better)"),
    ],
)
def test_what_a_training_was(tmp_path, about, told):
    card = tf_amalgam.card(written(tmp_path, about))
    assert card.facts()["meta-updates"].startswith(told)


def test_the_steps_of_a_validation(tmp_path):
    """Of the best one, if a file tells of them all; else of the last stage."""
    rows = [{"score": -1.0, "steps": 200.0, "then": "next"}]
    rows += [{"score": -0.5, "steps": 500.0, "then": "finish"}]
    stages = {"stages": [{"unroll": 100}, {"unroll": 500}]}
    for about, steps in [
        ({"validations": rows, "best_validation": -1.0, "curriculum": stages}, 200),
        ({"validations": rows, "best_validation": -0.5, "curriculum": stages}, 500),
        ({"validations": rows, "best_validation": -7.0, "curriculum": stages}, None),
        ({"best_validation": -1.0, "curriculum": stages}, 500),
        ({"best_validation": -1.0}, None),
        ({"curriculum": stages, "validation_steps": 50}, 50),
        ({"curriculum": stages, "finished": False}, None),
    ]:
        assert tf_amalgam.card(written(tmp_path, about)).validation_steps == steps


def test_a_teacher_has_hyperparameters_and_no_weights():
    card = tf_amalgam.card("adam")
    assert (card.sha256, card.licence, card.command) == ("", "", "")
    assert card.meta_updates is None
    assert math.isnan(card.validation)
    assert "hyperparameters: learning_rate 0.005" in str(card)


def written(folder, about):
    """Returns the path of a saved optimizer of which a header tells something."""
    rule = rules.RNNProp()
    terms = {"warmup_steps": 1, "warmup_learning_rate": 0.1}
    weights = rule.init_weights(1)
    return saved.save(folder / "mine.npz", rule, weights, **terms, about=about)


def test_a_card_of_ones_own(tmp_path):
    """What the file says, and no more; nothing of a shipped one with its name."""
    rule = rules.RNNProp()
    path = tmp_path / f"{SHIPPED[0]}.npz"
    weights = rule.init_weights(1)
    saved.save(path, rule, weights, warmup_steps=1, warmup_learning_rate=0.1)
    card = tf_amalgam.card(path)
    assert card.name == str(path)
    assert card.sha256 == saved.digest(weights)
    assert (card.command, card.licence, card.results) == ("", "", ())
    assert (card.trained_on, card.meta_updates) == ("", None)
    assert "meta-updates" not in str(card)
    with pytest.raises(FileNotFoundError, match="no trained optimizer at"):
        tf_amalgam.card(tmp_path / "no.npz")


def test_a_path_is_no_name(tmp_path, monkeypatch):
    """As for `load`: a folder that is called as what ships is its own."""
    rule = rules.RNNProp()
    weights = rule.init_weights(1)
    monkeypatch.chdir(tmp_path)
    for name in (SHIPPED[0], "adam"):
        file = pathlib.Path(name) / "student.npz"
        saved.save(file, rule, weights, warmup_steps=1, warmup_learning_rate=0.1)
        card = tf_amalgam.card(pathlib.Path(name))
        assert card.sha256 == saved.digest(weights)
        assert card.results == ()
        assert tf_amalgam.card(name).results


@pytest.mark.parametrize(
    ("about", "told"),
    [
        ({}, "5 minutes on a machine"),
        ({"choice": {}}, "5 minutes on a machine with the Choice rule"),
        ({"finished": False}, f"5 minutes on a machine, {STOPPED}"),
        ({"validations": []}, f"5 minutes on a machine, {STOPPED}"),
        ({"validations": [ENDED]}, "5 minutes on a machine"),
        (
            {"validations": [{**ENDED, "then": "next"}]},
            f"5 minutes on a machine, {STOPPED}",
        ),
    ],
)
def test_what_a_training_took(tmp_path, about, told):
    about = {"seconds": 300.0, "versions": {"machine": "a machine"}, **about}
    card = tf_amalgam.card(written(tmp_path, about))
    assert card.facts()["training"] == told


@pytest.fixture
def no_results(monkeypatch, tmp_path):
    """The folder of a file of results, which is not there yet."""
    monkeypatch.setattr(reached, "RESULTS", tmp_path / "results.csv")
    monkeypatch.setattr(reached, "HELD_OUT", tmp_path / "held_out.csv")
    monkeypatch.setattr(reached, "LIMITS", tmp_path / "limits.csv")
    reached.measurements.cache_clear()
    yield tmp_path
    reached.measurements.cache_clear()


def test_measured_results_are_read(no_results):
    """By hand: rows of two optimizers, one of them not the oracle."""
    assert tf_amalgam.card("adam").results == ()
    reached.measurements.cache_clear()
    terms = {"epochs": 3, "preset": "released", "warmup_steps": 100}
    terms |= {"warmup_learning_rate": 0.05, "oracle": "adam", "oracle_loss": 0.25}
    row = {"optimizer": "adam", "kind": "analytic", "optimizee": "MLP", "seeds": 2}
    row |= {"validation_loss": 0.25, "validation_sd": 0.015, "test_loss": 0.26}
    row |= {"test_accuracy": 0.9, "diverged": 0, **terms}
    other = {"optimizer": "choice-small", "kind": "learned", "validation_loss": 0.5}
    other = {**row, **other, "validation_sd": "", "test_accuracy": "", "diverged": 1}
    row |= {"not_learned": 0, "seed_numbers": "4", "weights_sha256": ""}
    sha256 = saved.find("choice-small")[2]["sha256"]
    other |= {"not_learned": 1, "seed_numbers": "4 5", "weights_sha256": sha256}
    # Rows of weights that no longer ship are nobody's.
    older = {**other, "optimizer": "choice-large", "weights_sha256": sha256}
    with open(no_results / "results.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(row))
        writer.writeheader()
        writer.writerows([row, other, older])
    assert tf_amalgam.card("choice-large").results == ()
    told = str(tf_amalgam.card("adam")).splitlines()[-3:]
    assert told == [
        '  measured (load("adam", preset="released"), warm-up of 100 steps at 0.05; '
        "seeds 4;",
        "    losses at the best of 3 epochs):",
        "    MLP: 0.2500 ± 0.0150 validation, 0.2600 test, accuracy 0.9000 (2 seeds)",
    ]
    told = str(tf_amalgam.card("choice-small")).splitlines()[-5:]
    assert told == [
        "  measured (warm-up of 100 steps at 0.05; seeds 4, 5; losses at the best of 3 "
        "epochs;",
        "    oracle of the released preset):",
        "    MLP: 0.5000 validation, 0.2600 test, 1 diverged, 1 not learned (2 seeds); "
        "oracle adam 0.2500",
        "  known failures: MLP: 1 of 2 runs diverged",
        "  known failures: MLP: 1 of 2 did not learn",
    ]


def test_held_out_seeds_stand_beside_the_others(no_results):
    """With failures of their own."""
    row = {"optimizer": "adam", "kind": "analytic", "optimizee": "MLP", "seeds": 2}
    row |= {"validation_loss": 0.25, "validation_sd": 0.015, "test_loss": 0.26}
    row |= {"test_accuracy": 0.9, "diverged": 0, "epochs": 3, "preset": "released"}
    row |= {"warmup_steps": 100, "warmup_learning_rate": 0.05, "oracle": "rmsprop"}
    row |= {"oracle_loss": 0.25, "not_learned": 0, "seed_numbers": "0 1"}
    row["weights_sha256"] = ""
    held_out = {**row, "seed_numbers": "3 4", "diverged": 1}
    for name, one in (("results.csv", row), ("held_out.csv", held_out)):
        (no_results / name).write_text(files.as_csv([one]))
    card = tf_amalgam.card("adam")
    told = str(card)
    assert "seeds 0, 1; losses" in told.replace("\n    ", " ")
    assert "held-out seeds: measured (load" in told
    assert reached.failures(card) == ["MLP (held-out seeds): 1 of 2 runs diverged"]
    page = exporting.markdown(card)
    assert page.index("## Results") < page.index("## Held-out seeds")
    assert page.index("seeds 0, 1") < page.index("seeds 3, 4")
    assert page.index("| 0 of 2") < page.index("seeds 3, 4") < page.index("| 1 of 2")
    assert page.endswith("- MLP (held-out seeds): 1 of 2 runs diverged\n")
    assert exporting.as_json(card)["held_out"][0]["diverged"] == 1


def test_limits_are_failures(no_results):
    """Of the weights that ship, where they are far above Adam; none is no number."""
    sha256 = saved.find("stronger")[2]["sha256"]
    row = {"optimizer": "stronger", "weights_sha256": sha256, "scenario": "long"}
    row |= {"alone": 7.14, "guarded": 0.001, "adam": 0.002}
    rows = [row, {**row, "scenario": "a little worse", "alone": 0.4}]
    rows += [{**row, "scenario": "lost", "alone": math.nan}]
    rows += [{**row, "scenario": "of others", "weights_sha256": "ab"}]
    (no_results / "limits.csv").write_text(files.as_csv(rows))
    card = tf_amalgam.card("stronger")
    told = [
        "long: loss 7.14 at the end, Adam 0.002, with guard=True 0.001",
        "lost: loss nan at the end, Adam 0.002, with guard=True 0.001",
    ]
    assert reached.failures(card) == told
    assert f"  known failures: {told[0]}" in str(card)
    assert exporting.markdown(card).endswith(f"- {told[0]}\n- {told[1]}\n")
    assert exporting.as_json(card)["limits"][2]["alone"] is None


def test_every_limit_of_what_ships_is_known():
    found = {
        (row["optimizer"], row["scenario"]) for row in files.read_csv(reached.LIMITS)
    }
    assert found == set(itertools.product(SHIPPED, limits.SCENARIOS))
    for name in SHIPPED:
        assert len(tf_amalgam.card(name).limits) == len(limits.SCENARIOS)


def test_limits_are_measured_of_those_asked_for(no_results, monkeypatch, capsys):
    """The others' rows stay; the losses are of a few steps here."""
    short = {"inputs too large": (1000.0, 2), "as they are": (1.0, 2)}
    monkeypatch.setattr(limits, "SCENARIOS", short)
    monkeypatch.setattr(sys, "argv", ["limits.py", "--only", "choice-small"])
    older = {"optimizer": "stronger", "scenario": "as they are", "alone": 7.0}
    gone = {**older, "optimizer": "no-more"}, {**older, "scenario": "no more"}
    monkeypatch.setattr(files, "read_csv", lambda _: [older, *gone])
    (no_results / "limits.csv").touch()
    written = []
    monkeypatch.setattr(files, "as_csv", lambda rows: written.append(rows) or "")
    limits.main()
    first, written = written  # after each of the two, so that nothing is lost
    assert [row["optimizer"] for row in first] == ["choice-small", "stronger"]
    assert [row["optimizer"] for row in written] == ["choice-small"] * 2 + ["stronger"]
    (absurd, fine, same) = written
    assert same is older
    assert absurd["alone"] > fine["alone"]
    assert absurd["adam"] != fine["adam"]
    assert absurd["guarded"] != absurd["alone"]
    assert fine["weights_sha256"] == saved.find("choice-small")[2]["sha256"]
    assert "3 rows" in capsys.readouterr().out


def test_the_worst_loss_is_that_of_the_last_tenth(monkeypatch):
    losses = [9.0, *range(17, -1, -1), 0.5]
    fit = types.SimpleNamespace(history={"loss": losses})
    net = types.SimpleNamespace(compile=lambda **_: None, fit=lambda *_, **__: fit)
    for epochs, expected in ((20, 0.5), (10, 0.5), (5, 0.5), (30, 1.0)):
        assert limits.worst(lambda: net, None, ((), ()), epochs) == expected


def test_seeds_that_something_was_chosen_by_are_not_held_out():
    table = pd.DataFrame({"seed_numbers": ["3 4 5", "3 4 5"]})
    zoo.check_held_out(table, pd.DataFrame({"seed_numbers": ["0 1 2"]}))
    with pytest.raises(ValueError, match=r"Seeds \[3, 5\] are among those of res"):
        zoo.check_held_out(table, pd.DataFrame({"seed_numbers": ["0 1", "5 3"]}))


def test_the_page_of_held_out_seeds():
    def row(optimizer, optimizee, loss):
        best = {"oracle": "adam", "oracle_loss": 0.1 if optimizee == "Train" else 2.0}
        best |= {"rival": "theirs", "rival_loss": 0.05 if optimizee == "Train" else 4.0}
        return {
            "optimizer": optimizer,
            "optimizee": optimizee,
            "validation_loss": loss,
            "validation_sd": 0.0123,
            **best,
        }

    losses = {saved.DEFAULT: (0.05, 1.0), "adam": (0.1, 2.0), "theirs": (0.05, 4.0)}
    table = pd.DataFrame(
        row(name, *pair)
        for name, found in losses.items()
        for pair in zip(("Train", "MLP"), found, strict=True)
    )
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in zoo.page(table).splitlines()
    ]
    assert lines[0][2:] == [
        "the oracle",
        "log ratio",
        "theirs",
        "log ratio to the best",
    ]
    assert lines[2][0] == "Train"
    assert lines[2][1:4] == [".0500 ± .0123", ".1000 (adam)", "−.693"]
    assert lines[2][4:] == [".0500", "+.000"]
    assert lines[3][4:] == ["4.0000", "−1.386"]
    assert lines[4] == ["mean", "", "", "−.693", "", "−.693"]
    assert zoo._signed(-10.5) == "−10.500"
    alone = zoo.page(table[table["optimizer"] != "theirs"])
    assert "| mean" in alone
    assert "best" not in alone
    # On MLP no rival could be the best, for lost runs.
    table["rival_loss"] = table["rival_loss"].where(table["optimizee"] == "Train")
    table.loc[table["optimizer"] == "theirs", "validation_sd"] = math.nan
    lines = [line.split("|")[1:-1] for line in zoo.page(table).splitlines()]
    assert lines[3][-1].strip() == "–"
    assert lines[4][-1].strip() == "+.000"


def made_up():
    """Returns records, none of which has a shipped optimizer's name."""
    found = planted()
    for record in found:
        record["constant_loss"] = None  # as of regression
        if record["optimizer"] in SHIPPED:
            record["optimizer"] = "alone"
    return found


def test_results_come_out_of_records():
    """Means over seeds; the oracle is the pool's best; others' labels are left out."""
    found = made_up()
    table = zoo.results(found).set_index(["optimizer", "optimizee"])
    assert set(table.index.get_level_values(0)) == {"adam", "sgd"}
    here = [r for r in found if (r["task"], r["optimizer"]) == ("Train", "adam")]
    losses = [min(r["curves"]["val_loss"]) for r in here]
    row = table.loc["adam", "Train"]
    assert row["validation_loss"] == pytest.approx(sum(losses) / len(losses))
    assert row["seeds"] == len(here)
    assert row["oracle_loss"] == min(table.xs("Train", level=1)["validation_loss"])
    assert (row["kind"], row["epochs"]) == ("analytic", len(here[0]["curves"]["loss"]))


def test_seeds_that_differ_are_told_by_optimizee():
    row = {"optimizee": "MLP", "seed_numbers": "0 1", "kind": "learned", "oracle": ""}
    row |= {"warmup_steps": 1, "warmup_learning_rate": 0.1, "epochs": 3}
    other = {**row, "optimizee": "CIFAR"}
    assert "; seeds 0, 1; losses" in reached.terms([row, other])
    other["seed_numbers"] = 7
    assert "; seeds MLP 0, 1; CIFAR 7; losses" in reached.terms([row, other])


def test_hyperparameters_of_any_kind_are_told():
    pool = [{"rule": "sgd", "learning_rate": 0.1}]
    found = cards._numbers({"units": (20, 10), "pool": pool, "none": None, "a": 1.0})
    assert found == "units 20, 10, pool sgd (learning_rate 0.1), a 1.0"


def test_results_of_other_weights_are_refused():
    found = made_up()
    for record in found:
        if record["optimizer"] == "ours":
            record["optimizer"] = "choice-small"
    with pytest.raises(ValueError, match="A record of choice-small was made with"):
        zoo.results(found)


def test_results_under_other_options_are_refused():
    """The weights are those that ship, and yet it is another optimizer."""
    name = "choice-small"
    options = {"warmup_steps": 100, "warmup_learning_rate": 0.05, "preset": "paper"}
    found = [record for record in made_up() if record["optimizer"] == "ours"]
    for record in found:
        record["settings"] |= options
    (shipped,) = lineup([name], **options)
    (slower,) = lineup(
        {name: lambda: tf_amalgam.load(name, learning_rate=0.5)}, **options
    )
    for record in found:
        record |= {"optimizer": name, "optimizer_config": shipped.config}
    assert set(zoo.results(found)["optimizer"]) == {name}
    found[-1]["optimizer_config"] = json.loads(json.dumps(slower.config))
    message = "choice-small was made with learning_rate 0.5, where load gives 1.0"
    with pytest.raises(ValueError, match=message):
        zoo.results(found)
    (other,) = lineup([name], **{**options, "warmup_steps": 5})
    for record in found:  # an evaluation with another warm-up of all
        record["optimizer_config"] = other.config
        record["settings"] |= {"warmup_steps": 5}
    message = "choice-small was made with warmup_steps 5, where load gives 100"
    with pytest.raises(ValueError, match=message):
        zoo.results(found)
    teacher = [record for record in made_up() if record["optimizer"] == "adam"]
    teacher[0]["optimizer_config"] = {"learning_rate": 0.05}
    with pytest.raises(ValueError, match=r"adam was made with learning_rate 0\.05"):
        zoo.results(teacher)


def test_runs_that_did_not_learn_are_counted():
    found = made_up()
    (here, *_) = [r for r in found if (r["task"], r["optimizer"]) == ("Train", "adam")]
    here["constant_loss"] = 0.5 * min(here["curves"]["val_loss"])
    table = zoo.results(found).set_index(["optimizer", "optimizee"])
    assert table.loc[("adam", "Train"), "not_learned"] == 1
    assert table["not_learned"].sum() == 1
    assert table["diverged"].sum() == zoo.results(made_up())["diverged"].sum()
    del here["constant_loss"]  # an older record, with which nothing is known
    table = zoo.results(found)
    there = (table["optimizer"] == "adam") & (table["optimizee"] == "Train")
    assert list(table["not_learned"].isna()) == list(there)
    assert measured.rows(table[there], "adam")[0]["not_learned"] == ""


def test_runs_that_diverge_at_once_leave_the_number_of_epochs():
    found = made_up()
    for record in found:
        if (record["task"], record["optimizer"]) == ("Train", "adam"):
            curves = record["curves"].items()
            record["curves"] = {name: values[:1] for name, values in curves}
            record["diverged"] = True
    table = zoo.results(found)
    assert set(table["epochs"]) == {found[0]["settings"]["epochs"]}
    row = table.set_index(["optimizer", "optimizee"]).loc[("adam", "Train")]
    assert (row["diverged"], row["not_learned"]) == (3, 0)


def test_rows_are_added_beside_the_oracle_that_is_there():
    found = made_up()
    whole = zoo.results(found)
    known = whole[whole["optimizer"] != "sgd"]
    grown = zoo.added(known, found)
    assert list(grown["optimizer"]) == [
        *known["optimizer"],
        *["sgd"] * len(set(whole["optimizee"])),
    ]
    both = [
        t.set_index(["optimizer", "optimizee"]).sort_index() for t in (whole, grown)
    ]
    pd.testing.assert_frame_equal(*both, check_dtype=False)
    for name, value in [
        ("epochs", 99),
        ("seed_numbers", "3 4 5"),
        ("dataset", "mnist"),
        ("examples", 9),
        ("parameters", 9),
    ]:
        with pytest.raises(ValueError, match=f"The records' {name} is"):
            zoo.added(known.assign(**{name: value}), found)
    fewer = known[known["optimizee"] != "Train"]
    expected = grown[grown["optimizee"] != "Train"]
    found = zoo.added(fewer, found).reset_index(drop=True)
    pd.testing.assert_frame_equal(found, expected.reset_index(drop=True))


def test_what_is_left_out_of_the_table_is_told(
    no_results, tmp_path, monkeypatch, capsys
):
    found = made_up()
    table = zoo.results(found)
    fewer = table[table["optimizee"] != "Train"]
    fewer.to_csv(no_results / "results.csv", index=False)
    folder = recorded(found, tmp_path / "runs")
    monkeypatch.setattr(zoo, "write_cards", tuple)
    monkeypatch.setattr(sys, "argv", ["zoo.py", str(folder), "--add"])
    zoo.main()
    told = capsys.readouterr().out
    assert "Left out, since not all are there: Train." in told
    assert f"{len(fewer)} rows: {no_results / 'results.csv'}" in told


def test_held_out_seeds_go_into_a_file_of_their_own(
    no_results, tmp_path, monkeypatch, capsys
):
    found = made_up()
    folder = recorded(found, tmp_path / "runs")
    zoo.results(found).to_csv(no_results / "results.csv", index=False)
    monkeypatch.setattr(zoo, "write_cards", tuple)
    words = ["zoo.py", str(folder), "--held-out", "--rivals", "ours"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(ValueError, match="Evaluate by others"):
        zoo.main()
    assert not (no_results / "held_out.csv").exists()
    for record in found:
        record["seed"] += 10
    shutil.rmtree(folder)
    recorded(found, folder)
    zoo.main()
    assert "log ratio" not in capsys.readouterr().out  # the default was not there
    table = zoo._read(no_results / "held_out.csv")
    assert {"adam", "ours"} <= set(table["optimizer"])
    mine = table.assign(optimizer=table["optimizer"].replace("adam", saved.DEFAULT))
    monkeypatch.setattr(zoo, "results", lambda *_: mine)
    zoo.main()
    assert zoo.page(mine) in capsys.readouterr().out


def test_rivals_are_added_beside_rows_that_are_there():
    found = made_up()
    known = zoo.results(found)
    assert not known["rival"].any()
    grown = zoo.added(known, found, ["ours", "alone"])
    rivals = ["ours", "alone"]
    beside = zoo.results(found, rivals, rivals)
    theirs = beside["optimizer"].isin(rivals)
    assert theirs.any()
    whole = zoo.results(found, rivals)  # no rows of theirs beside those that ship
    pd.testing.assert_frame_equal(whole, beside[~theirs])
    assert len(whole) == len(known)
    both = [
        t.set_index(["optimizer", "optimizee"]).sort_index() for t in (whole, grown)
    ]
    pd.testing.assert_frame_equal(*both, check_dtype=False)
    assert set(grown["rival"]) <= {"ours", "alone"}
    # What an evaluation of some optimizees says nothing of stays.
    one = [record for record in found if record["task"] == "Train"]
    again = zoo.added(grown.assign(rival="older"), one, ["ours"])
    rival = again.set_index("optimizee")["rival"]
    assert set(rival["Train"]) == {"ours"}
    assert set(rival.drop("Train")) == {"older"}
    # Those of other seeds are none.
    with pytest.raises(ValueError, match="The records' seed_numbers is"):
        zoo.added(known.assign(seed_numbers="7 8"), one, ["ours"])
    # Who lost a run is nobody's best rival: what is known stays.
    for record in one:
        if (record["optimizer"], record["seed"]) == ("ours", 0):
            record |= {"diverged": True, "test": {}, "test_at_best": {}}
    kept = zoo.added(again, one, ["ours"])
    for name in ("rival", "rival_loss"):
        assert list(kept[name]) == list(again[name])


def test_who_lacks_runs_is_told(capsys):
    found = made_up()
    zoo.tell_left_out(found, ["ours"], oracles=True)
    assert not capsys.readouterr().out
    found = [r for r in found if (r["optimizer"], r["task"]) != ("sgd", "MLP")]
    for record in found:
        if (record["optimizer"], record["task"]) == ("ours", "Train"):
            record |= {"diverged": True, "test": {}, "test_at_best": {}}
    zoo.tell_left_out(found, ["ours"], oracles=True)
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "sgd is not the oracle on MLP: it lacks runs.",
        "No best rival on Train: all lack runs.",
    ]
    zoo.tell_left_out(found, ["ours"], oracles=False)
    assert capsys.readouterr().out.splitlines() == told[1:]


def test_rows_of_shipped_optimizers_take_the_place_of_older_ones():
    found = made_up()
    for record in found:
        if record["optimizer"] == "ours":
            record["optimizer"] = "choice-small"
            sha256 = saved.find("choice-small")[2]["sha256"]
            record["optimizer_config"] = {"weights_sha256": sha256}
    new = zoo.results(found)
    hashes = new.drop_duplicates("optimizer").set_index("optimizer")["weights_sha256"]
    assert dict(hashes) == {"adam": "", "sgd": "", "choice-small": sha256}
    older = new.assign(validation_loss=9.0)
    grown = zoo.added(older, found).set_index("optimizer")["validation_loss"]
    assert (grown.drop("choice-small") == 9.0).all()
    expected = new.set_index("optimizer")["validation_loss"]["choice-small"]
    assert list(grown["choice-small"]) == list(expected)
    assert len(grown) == len(new)


def test_the_shipped_results_are_of_the_shipped_optimizers():
    with open(reached.RESULTS, newline="") as file:
        rows = list(csv.DictReader(file))
    names = {row["optimizer"] for row in rows}
    assert names == {*SHIPPED, *rules.TEACHERS}
    for row in rows:
        name, sha256 = row["optimizer"], row["weights_sha256"]
        assert sha256 == (saved.find(name)[2]["sha256"] if name in SHIPPED else "")
    tasks = {row["optimizee"] for row in rows}
    assert len(rows) == len(names) * len(tasks)
    for task in tasks:  # equal terms
        here = [row for row in rows if row["optimizee"] == task]
        assert len({(row["seeds"], row["epochs"], row["oracle"]) for row in here}) == 1
        assert int(here[0]["seeds"]) == len(here[0]["seed_numbers"].split()) >= 2


@pytest.mark.parametrize("name", SHIPPED)
def test_the_page_of_what_ships_is_true(name):
    """docs/zoo is what `benchmarks/zoo.py` makes of today's files and results."""
    card, folder = tf_amalgam.card(name), ROOT / "docs" / "zoo"
    assert (folder / f"{name}.png").is_file() == bool(card.validations)
    page = (folder / f"{name}.md").read_text()
    assert page == exporting.markdown(card, zoo.drawn(name))
    (picture,) = re.findall(r"!\[validation by meta-update.*\]\((.+)\)", page)
    assert (folder / picture).is_file()
    # Where a file holds validations its own picture stands there.
    assert (picture == f"{name}.png") == bool(card.validations)
    read = json.loads((folder / f"{name}.json").read_text())
    assert read == exporting.as_json(card)


def test_there_is_no_page_of_anything_else():
    pages = {path.stem for path in (ROOT / "docs" / "zoo").iterdir()}
    assert pages == set(SHIPPED)


def test_the_default_validates_best_over_all_optimizees():
    """The mean over optimizees of the log loss, as everybody is on all of them."""
    scores: dict = {}
    for row in reached.measurements(reached.RESULTS):
        if row["optimizer"] in SHIPPED:
            loss = float(row["validation_loss"] or "inf")
            scores.setdefault(row["optimizer"], []).append(math.log(loss))
    best = min(scores, key=lambda name: sum(scores[name]))
    assert best == saved.DEFAULT
    assert saved.find(best)[2]["sha256"] == saved.digest(tf_amalgam.load().rule_weights)


def test_what_all_reached_stands_in_the_docs():
    """docs/results.md has it as `benchmarks/zoo.py --table` prints it."""
    table = zoo._read(reached.RESULTS)
    told = zoo.overview(table)
    assert told in (ROOT / "docs" / "results.md").read_text()
    lines = [
        [cell.strip() for cell in row.split("|")[1:-1]] for row in told.split("\n")
    ]
    assert {line[0] for line in lines[2:]} == {*SHIPPED, *rules.TEACHERS}
    assert lines[2][0] == saved.DEFAULT
    by = table.set_index(["optimizer", "optimizee"])
    row = by.loc["scale", "Deeper"]
    expected = math.log(row["validation_loss"] / row["oracle_loss"])
    scale = next(line for line in lines if line[0] == "scale")
    assert scale[lines[0].index("Deeper")] == zoo._signed(expected)
    rivals = by.loc["scale"].pipe(lambda r: r["validation_loss"] / r["rival_loss"])
    assert scale[-1] == zoo._signed(rivals.map(math.log).mean())
    oracle = by.loc["adam", "CIFAR"]
    assert oracle["oracle"] == "adam"
    adam = next(line for line in lines if line[0] == "adam")
    assert adam[lines[0].index("CIFAR")] == "+.000"
    # Who lost all runs of an optimizee comes last.
    lost = (table["optimizer"] == saved.DEFAULT) & (table["optimizee"] == "CIFAR")
    table.loc[lost, "validation_loss"] = math.nan
    last = [cell.strip() for cell in zoo.overview(table).splitlines()[-1].split("|")]
    assert last[1] == saved.DEFAULT
    assert last[-3:-1] == ["–", "–"]


def test_the_held_out_results_are_of_the_default_on_fresh_seeds():
    """docs/results.md has them as `benchmarks/zoo.py --held-out` writes them."""
    rows = reached.measurements(reached.HELD_OUT)
    assert {row["optimizer"] for row in rows} > {saved.DEFAULT, *rules.TEACHERS}
    where = {row["optimizee"] for row in rows if row["optimizer"] == saved.DEFAULT}
    by = {row["optimizee"] for row in reached.measurements(reached.RESULTS)}
    assert where == {row["optimizee"] for row in rows} == by | {"Wider"}
    table = zoo._read(reached.HELD_OUT)
    zoo.check_held_out(table, zoo._read(reached.RESULTS))
    assert len(table) == len(where) * table["optimizer"].nunique()
    assert zoo.page(table) in (ROOT / "docs" / "results.md").read_text()
    assert tf_amalgam.card().held_out


@pytest.mark.slow
def test_a_folder_without_records(tmp_path):
    run = subprocess.run(
        [sys.executable, "benchmarks/zoo.py", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert "There are no records in this folder" in run.stderr
