"""Verdicts on runs of which some are missing or diverged."""

import math

import numpy as np
import pytest

from tests.test_reporting import record
from tf_amalgam import frames

LEVELS = [0.0, 3.0, -2.0, 1.0, -1.0]  # what seeds differ in


def runs(optimizer, gains, **changes):
    """Returns the records of one optimizer: seed → its gain over the seed's level."""
    return [
        record("Train", optimizer, 0, seed)
        | {"test_at_best": {"loss": math.exp(LEVELS[seed] + gain)}, **changes}
        for seed, gain in gains.items()
    ]


def verdict(*found):
    (row,) = frames.verdicts(frames.runs([r for part in found for r in part]), "adam")[
        ["optimizer", "difference", "high", "pairs", "of", "verdict", "diverged"]
    ].itertuples()
    return row


GAINS = {0: -0.10, 1: -0.11, 2: -0.09, 3: -0.10, 4: -0.10}
ADAM = runs("adam", dict.fromkeys(GAINS, 0.0))


def test_a_missing_seed_does_not_undo_the_pairs():
    """Unpaired, seeds that differ thirty times more would hide the gain."""
    less = {seed: gain for seed, gain in GAINS.items() if seed != 3}
    row = verdict(ADAM, runs("Lion", less))
    assert row.difference == pytest.approx(-0.10)
    assert (row.pairs, row.of, row.verdict) == (4, 5, "better")
    assert row.high < -0.08
    row = verdict(ADAM[:4], runs("Lion", GAINS))
    assert (row.pairs, row.of, row.verdict) == (4, 5, "better")
    row = verdict(ADAM, runs("Lion", GAINS))
    assert (row.pairs, row.of) == (5, 5)


def test_a_diverged_run_is_a_missing_partner():
    """Of either side, and of both."""
    lost = [*ADAM[:3], ADAM[3] | {"diverged": True}, ADAM[4]]
    row = verdict(lost, runs("Lion", GAINS))
    assert (row.pairs, row.of, row.verdict) == (4, 5, "better")
    both = runs("Lion", GAINS)
    both[3] |= {"diverged": True}
    row = verdict(lost, both)
    assert (row.pairs, row.of, row.diverged) == (4, 5, 1)
    assert row.verdict == "better"


def test_the_best_epoch_need_not_be_the_last():
    curves = {
        "loss": [1.0, 0.5, 0.4],
        "val_loss": [0.5, 0.2, 0.3],
        "val_accuracy": [0.6, 0.9, 0.8],
    }
    found = record("Train", "adam", 0, 0, curves=curves, start_loss=0.25)
    row = frames.runs([found]).loc[0]
    figures = ["best_val_loss", "final_val_loss", "train_loss", "best_val_accuracy"]
    assert row[figures].to_list() == [0.2, 0.3, 0.4, 0.9]
    logarithms = ["log_best_val_loss", "log_train_loss"]
    np.testing.assert_allclose(row[logarithms].to_list(), np.log([0.2, 0.4]))
    assert row["learned"]
    # The oracle's loss, which others are to reach, is of its best epoch, too.
    slow = record("Train", "Lion", 0, 0, curves={**curves, "val_loss": [0.4, 0.3, 0.2]})
    table = frames.reaching([found, slow], {"Train": "adam"}).set_index("optimizer")
    assert table["steps"].to_dict() == {"adam": 200.0, "Lion": 300.0}


def test_other_seeds_are_no_pairs():
    first, second = ADAM[:2], runs("Lion", {seed: GAINS[seed] for seed in (2, 3, 4)})
    row = verdict(first, second)
    assert (row.pairs, row.of, row.verdict) == (0, 5, "level")


def test_replicates_are_paired_with_replicates_alone():
    """Their numbers are no seeds, though they look alike."""
    ours = [record("Train", "ours", r, s) for r in range(3) for s in range(5)]
    assert verdict(ADAM, ours).pairs == 0
    noisy = [record("Train", "adam", r, s) for r in range(4) for s in range(5)]
    row = verdict(noisy, ours)
    assert (row.pairs, row.of) == (3, 4)


def test_a_single_replicate_is_paired_with_its_like():
    """The seeds of number 3 begin otherwise than those of number 0."""
    one = [record("Train", "ours", 3, seed) for seed in range(5)]
    assert verdict(ADAM, one).pairs == 0
    table = frames.verdicts(frames.runs([*ADAM, *one]), "adam")
    assert list(table["unit"]) == [""]  # and is not told to lack seeds
    alike = [record("Train", "adam", 3, seed) for seed in range(5)]
    assert verdict(alike, one).pairs == 5


def test_an_oracle_has_all_seeds_of_all_its_replicates():
    whole = [record("Train", "adam", 0, seed) for seed in range(3)]
    ours = [record("Train", "ours", r, seed) for r in range(2) for seed in range(3)]
    pool = ["adam", "ours"]  # as a pool of rivals is

    def chosen(found):
        frame = frames.runs(found)
        return frames.oracle(frame, pool), frames.left_out(frame, pool)

    assert chosen(whole + ours) == ({"Train": "ours"}, {})
    # Replicate 1 lacks a seed; then it has none here, but some on another optimizee.
    assert chosen(whole + ours[:-1]) == ({"Train": "adam"}, {"ours": ["Train"]})
    elsewhere = [record("MLP", "ours", 1, 0)]
    best, left = chosen(whole + ours[:3] + elsewhere)
    assert best == {"Train": "adam"}
    assert left == {"ours": ["Train"]}
    # Who has no run at all on an optimizee is left out there, too.
    elsewhere = [record("MLP", "ours", r, 0) for r in range(2)]
    best, left = chosen(whole + ours + elsewhere)
    assert best == {"Train": "ours", "MLP": "ours"}
    assert left == {"adam": ["MLP"]}


def reference(losses):
    """Returns the reference of runs, (optimizer, task, seed) → loss; None is lost."""
    found = []
    for (label, task, seed), loss in losses.items():
        one = record(task, label, 0, seed)
        one["curves"] = {"loss": [loss or 1.0], "val_loss": [loss or 1.0]}
        lost = {"diverged": True, "test": {}, "test_at_best": {}}
        found.append(one | (lost if loss is None else {}))
    return frames.reference_of(frames.runs(found))


def test_an_easy_seed_makes_no_reference():
    """Of `noisy` there is the easiest alone, where `ours` is better."""
    ours = {("ours", "Train", 0): 0.01, ("ours", "Train", 1): 1.0}
    assert reference(ours | {("noisy", "Train", 0): 0.02}) == "ours"
    assert reference(ours | {("noisy", "Train", 0): 0.005}) == "noisy"


def test_the_reference_is_who_has_most_optimizees_and_lost_least():
    ours = {("ours", task, seed): 0.5 for task in ("Train", "MLP") for seed in (0, 1)}
    noisy = {("noisy", "Train", seed): 0.1 for seed in range(9)}
    assert reference(ours | noisy) == "ours"
    # A run that is not there is no run that was lost.
    del ours["ours", "MLP", 1]
    lost = {("noisy", task, seed): None for task in ("Train", "MLP") for seed in (0, 1)}
    assert reference(ours | lost) == "ours"
    # Two of nine are a smaller share than one of two.
    ours = {("ours", "Train", seed): None if seed < 2 else 0.5 for seed in range(9)}
    noisy = {("noisy", "Train", 0): None, ("noisy", "Train", 1): 0.1}
    assert reference(ours | noisy) == "ours"


def test_where_there_are_no_students_the_reference_is_a_choice_rule():
    losses = {("mixer", "Train", 0): 0.1, ("adam", "Train", 0): 0.01}
    assert reference(losses) == "mixer"
    assert reference({("adam", "Train", 0): 0.01}) is None


def test_one_teacher_is_no_amalgamation():
    told = {"task": "Train", "scheme": "mean", "teachers": ["adam"]}
    assert not frames.amalgamated(told)
    assert frames.amalgamated({**told, "teachers": ["adam", "sgd"]})
    # A Choice rule is one teacher, and has combined several.
    assert frames.amalgamated({**told, "scheme": "choice", "teachers": ["choice"]})
    assert not frames.amalgamated({})
    stronger = record("Train", "noisy", 0, 0, trained=told)
    ours = record("Train", "ours", 0, 0)
    stronger["curves"]["val_loss"] = [1e-6] * 10
    assert frames.reference_of(frames.runs([stronger, ours])) == "ours"
