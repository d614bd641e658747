"""Tables for a first look, cell by cell."""

import math

import numpy as np
import pytest

from tests.test_reporting import planted, record
from tf_amalgam import evaluated, frames, glances, stats


def cells(section):
    return section.table.set_index("optimizer")


def against_the_oracle(found):
    given = evaluated.gather(found)
    runs = frames.with_oracle(given.runs, given.best)
    return given, frames.verdicts(runs, "oracle")


def by_name(found):
    given = evaluated.gather(found)
    return {one.name: one for one in glances.all_glances(given, found)}


def lost(found, optimizer, task, seed=0):
    for one in found:
        if (one["optimizer"], one["task"], one["seed"]) == (optimizer, task, seed):
            one |= {"diverged": True, "test": {}}
    return found


def test_small_losses_have_digits():
    found = planted()
    for one in found:
        if one["task"] == "MLP":
            losses = one["curves"]["val_loss"]
            one["curves"]["val_loss"] = [1e-4 * loss for loss in losses]
    table = cells(by_name(found)["losses"])
    mean = frames.runs(found).query("optimizer == 'adam' and task == 'MLP'")
    mean = mean["best_val_loss"].mean()
    assert table.loc["adam", "MLP"].startswith(f"{mean:.1e} ± ")
    assert table.loc["adam", "MLP"].count("e-0") == 2
    assert "e" not in table.loc["adam", "Train"]


def test_no_table_of_accuracies_without_any():
    """Of regressions, one run of which diverged."""
    found = lost(planted(), "ours", "MLP")
    assert "accuracies" in by_name(found)
    for one in found:
        del one["curves"]["val_accuracy"]
        for split in ("test", "test_at_best"):
            one[split] = {k: v for k, v in one[split].items() if k == "loss"}
    assert "accuracies" not in by_name(found)
    for one in found:
        one |= {"diverged": True, "test": {}}
    assert "(3 diverged)" in cells(by_name(found)["losses"]).loc["adam", "MLP"]


def test_verdicts_name_the_oracle_and_divergence():
    given, table = against_the_oracle(lost(planted(), "ours", "MLP"))
    shown = glances.verdicts(given.best, table)
    assert list(cells(shown).loc["adam"]) == ["oracle", "oracle", "+0.00"]
    difference = table.set_index(["task", "optimizer"])["difference"]
    assert cells(shown).loc["ours", "MLP"] == (
        f"{difference['MLP', 'ours']:+.2f} (3 diverged)"
    )
    # One cell has lost runs: its mean would be of the others.
    assert cells(shown).loc["ours", "mean"] == "–"
    assert cells(shown).loc["sgd", "mean"] != "–"
    marks = shown.marks.iloc[list(shown.table["optimizer"]).index("ours")]
    assert list(marks) == ["", "better", "diverged", ""]


def test_how_many_verdicts_are_expected_to_be_false():
    """By hand: 6 others on 2 optimizees, less one that is no interval."""
    given, table = against_the_oracle(planted())
    assert (
        "Of 12 such intervals about 1 " in glances.verdicts(given.best, table).caption
    )
    given, table = against_the_oracle(lost(planted(), "ours", "MLP"))
    assert "Of 11 such" in glances.verdicts(given.best, table).caption


def test_pairs_that_lack_seeds_are_said():
    given, table = against_the_oracle(planted())
    whole = glances.verdicts(given.best, table.assign(pairs=3, of=3))
    assert "seeds" not in whole.table.to_string()
    of_sgd = table["optimizer"].eq("sgd") & table["task"].eq("MLP")
    for pairs in (2, 0):
        some = table.assign(pairs=np.where(of_sgd, pairs, 3), of=3)
        shown = cells(glances.verdicts(given.best, some))
        assert shown.loc["sgd", "MLP"].endswith(f" worse ({pairs} of 3 seeds)")
        assert "seeds" not in shown.drop(index="sgd").to_string()
    # A student of replicates and an optimizer without them have nothing to pair.
    apart = table.assign(pairs=0, of=5, unit="")
    shown = cells(glances.verdicts(given.best, apart))
    assert "of 5" not in shown.to_string()


def test_the_headline_uses_it_and_says_so():
    """Half the loss at the best epoch, for one optimizer alone, moves it by log 2."""
    found = planted()
    for one in found:
        one["test_at_best"] = {"loss": one["test"]["loss"], "accuracy": 0.5}
        if one["optimizer"] == "sgd":
            one["test_at_best"]["loss"] /= 2.0
    there = by_name(found)
    assert "weights of the best validation epoch" in there["verdicts"].caption
    assert cells(there["accuracies"]).loc["adam", "Train"] == "50.00 ± 0.00"
    for one in found:
        one["test"] = {"loss": 1e3, "accuracy": 0.1}  # at the end: not looked at
    again = by_name(found)
    whole = planted()
    for one in whole:
        one["test_at_best"] = one["test"]
    before, after = (
        float(cells(one["verdicts"]).loc["sgd", "mean"])
        for one in (by_name(whole), again)
    )
    assert after - before == pytest.approx(-math.log(2.0), abs=0.011)


def test_pairs_of_replicates_are_no_seeds():
    """Of three replicates the opponent has two."""
    found = planted()
    for one in found:
        if one["optimizer"] == "sgd":
            one["optimizer"] = "rival"
    rivals = [
        {**one, "replicate": i, "optimizer": "rival"}
        for one in found
        if one["optimizer"] == "rival"
        for i in range(2)
    ]
    found = [one for one in found if one["optimizer"] != "rival"] + rivals
    runs = frames.runs(found)
    row = frames.verdicts(runs, "rival").set_index(["optimizer", "task"])
    assert frames.unpaired(row.loc["ours", "Train"]) == "2 of 3 replicates"
    assert frames.unpaired(row.loc["rnnprop", "Train"]) == ""  # both have two
    assert frames.unpaired(row.loc["adam", "Train"]) == ""  # not paired


def test_runs_that_did_not_learn_are_counted_and_kept():
    found = planted()
    for one in found:
        if (one["optimizer"], one["task"], one["seed"]) == ("sgd", "Train", 1):
            one["start_loss"] = 1e-6
        if (one["optimizer"], one["task"], one["seed"]) == ("adam", "Train", 1):
            least = min(one["curves"]["val_loss"])
            one["constant_loss"] = least * (1.0 + 1e-6)  # a net that is dead
        if (one["optimizer"], one["task"], one["seed"]) == ("adam", "Train", 2):
            one["constant_loss"] = 1.001 * min(one["curves"]["val_loss"])
        if (one["optimizer"], one["task"], one["seed"]) == ("adam", "Train", 0):
            one["constant_loss"] = None  # a loss that is no cross-entropy
    lost(found, "sgd", "Train", 2)
    runs = frames.runs(found).query("optimizer == 'sgd' and task == 'Train'")
    mean = runs["best_val_loss"].mean()  # of two: one learned, one did not
    cell = cells(by_name(found)["losses"]).loc["sgd", "Train"]
    assert cell.startswith(f"{mean:.4f} ± ")
    assert cell.endswith(" (1 diverged, 1 not learned)")
    assert "(1 not learned)" in cells(by_name(found)["losses"]).loc["adam", "Train"]


def test_effect_sizes_at_a_glance():
    found = planted()
    runs = frames.runs(found).query("task == 'Train'").set_index("optimizer")
    shown = cells(by_name(found)["effects"])
    g = stats.effect_size(
        runs.loc["sgd", "log_test_at_best_loss"],
        runs.loc["adam"]["log_test_at_best_loss"],
    )
    assert shown.loc["sgd", "Train"] == f"{g:+.1f}"
    assert shown.loc["adam", "Train"] == "oracle"


def test_steps_and_times_at_a_glance():
    """Planted: goal .15, epochs of 10 steps."""

    def run(optimizer, seed, losses, milliseconds):
        curves = {"loss": losses, "val_loss": losses}
        changes = {"curves": curves, "steps_per_epoch": 10}
        return record(
            "Train", optimizer, 0, seed, step_milliseconds=milliseconds, **changes
        )

    found = [
        run("adam", 0, [0.4, 0.2, 0.1], 2.0),
        run("adam", 1, [0.4, 0.3, 0.2], 3.0),
        run("ours", 0, [0.1, 0.2, 0.1], 5.0),
        run("ours", 1, [0.4, 0.15, 0.16], 5.5),
        run("sgd", 0, [0.4, 0.3, 0.3], 1.0),
        run("sgd", 1, [0.4, 0.3, 0.3], 1.0),
    ]
    shown = by_name(found)
    assert dict(cells(shown["steps"])["Train"]) == {
        "adam": "30 (1/2)",
        "ours": "15 (2/2)",
        "sgd": "– (0/2)",
    }
    times = {"adam": "2.5", "ours": "5.2", "sgd": "1.0"}
    assert dict(cells(shown["times"])["Train"]) == times
    # What diverged in the warm-up took its steps.
    for one in (found[3], *found[4:]):
        one |= {"diverged": True, "test": {}, "test_at_best": {}}
    times = {"adam": "2.5", "ours": "5.0", "sgd": "–"}
    assert dict(cells(by_name(found)["times"])["Train"]) == times
