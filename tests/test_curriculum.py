"""The curriculum on scripted validation histories."""

import math

import pytest

from tf_amalgam.curriculum import Curriculum, Progress, Stage, judge


def played(curriculum, scores):
    """Returns (what followed each score, the last progress)."""
    progress, then = Progress(), []
    for score in scores:
        verdict = judge(curriculum, progress, score)
        progress = verdict.progress
        then.append(verdict.then)
    return then, progress


TWO = (Stage(100, 2), Stage(200, 1))


def test_simple_strategy_runs_its_periods_whatever_happens():
    # Each stage: one validation of what it was handed, then one per period.
    then, progress = played(Curriculum(TWO), [9.0, -1.0, 5.0, 5.0, math.inf])
    assert then == ["continue", "continue", "next", "continue", "finish"]
    assert progress.finished


def test_validation_is_as_long_as_the_next_stage():
    curriculum = Curriculum((Stage(100, 1), Stage(200, 1), Stage(500, 1)))
    assert [curriculum.validation_unroll(i) for i in range(3)] == [200, 500, 500]


def test_a_stage_goes_on_until_its_best_is_old_enough():
    curriculum = Curriculum((Stage(100, 2),), chances=2)
    # Period:      0    1     2     3     4     5
    scores = [0.0, -1.0, -0.5, -1.5, -1.4, -1.4]
    then, progress = played(curriculum, scores)
    assert then == ["continue"] * 5 + ["finish"]
    assert (progress.best_period, progress.best_score) == (3, -1.5)


def test_no_stage_is_longer_than_max_periods():
    curriculum = Curriculum((Stage(100, 1),), chances=5, max_periods=4)
    then, _ = played(curriculum, [0.0, -1.0, -2.0, -3.0, -4.0])
    assert then == ["continue"] * 4 + ["finish"]


def test_a_much_worse_period_is_repeated_and_the_limit_binds():
    curriculum = Curriculum((Stage(100, 2),), repeat_threshold=0.5, max_repeats=2)
    # Best −1: more than −.5 is much worse.
    then, progress = played(curriculum, [0.0, -1.0, -0.4, math.nan, -0.3])
    assert then == ["continue", "continue", "repeat", "repeat", "finish"]
    assert progress.best_score == -1.0


def test_a_little_worse_is_not_repeated():
    curriculum = Curriculum((Stage(100, 2),), repeat_threshold=0.5)
    assert played(curriculum, [0.0, -1.0, -0.6])[0][-1] == "finish"


def test_threshold_is_a_share_of_a_positive_best_too():
    curriculum = Curriculum((Stage(100, 2),), repeat_threshold=0.5)
    assert played(curriculum, [10.0, 14.9])[0][-1] == "continue"
    assert played(curriculum, [10.0, 15.1])[0][-1] == "repeat"


def test_repeats_are_counted_for_each_period_alone():
    curriculum = Curriculum((Stage(100, 3),), repeat_threshold=0.5, max_repeats=1)
    then, _ = played(curriculum, [-1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0])
    assert then == [
        *("continue", "repeat", "continue", "repeat", "abandon", "repeat", "finish")
    ]


def test_verdicts_say_which_weights_are_best():
    curriculum = Curriculum((Stage(100, 3),), repeat_threshold=0.5)
    progress = judge(curriculum, Progress(), -1.0).progress
    better = judge(curriculum, progress, -2.0)
    assert (better.best, better.then) == (True, "continue")
    bit_worse = judge(curriculum, better.progress, -1.9)
    assert (bit_worse.best, bit_worse.then) == (False, "continue")
    much_worse = judge(curriculum, bit_worse.progress, -0.5)
    assert (much_worse.best, much_worse.then) == (False, "repeat")


def test_a_period_that_stays_lost_is_given_up():
    """The run goes on from the best, however often that happens."""
    curriculum = Curriculum((Stage(100, 4),), repeat_threshold=0.5, max_repeats=1)
    scores = [-1.0, -0.9, math.inf, math.inf, 5.0, 5.0, -0.8]
    then, progress = played(curriculum, scores)
    assert then == ["continue", *("continue", *2 * ("repeat", "abandon")), "finish"]
    assert progress.best_score == -1.0


def test_a_start_that_diverges_is_beaten_by_anything_and_repeats_nothing():
    curriculum = Curriculum((Stage(100, 3),), repeat_threshold=0.5)
    then, progress = played(curriculum, [math.nan, math.inf, 3.0])
    assert then == ["continue"] * 3
    assert progress.best_score == 3.0


def test_a_stage_starts_without_the_history_of_the_one_before():
    then, progress = played(Curriculum(TWO, repeat_threshold=0.1), [0.0, -3.0, -3.0])
    assert then[-1] == "next"
    assert progress == Progress(stage=1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Stage(0, 1), "unroll must be a whole number from 1"),
        (lambda: Stage(100, 0), "periods must be a whole number from 1"),
        (lambda: Stage(100, 1, -0.1), "alpha must be a finite number from 0"),
        (lambda: Stage(100, 1, float("inf")), "alpha must be a finite number from 0"),
        (lambda: Stage(100, 1, "0.1"), "alpha must be a finite number from 0, or None"),
        (lambda: Curriculum(TWO, repeat_threshold="1"), "repeat_threshold must be a"),
        (lambda: Curriculum(()), "at least one Stage"),
        (lambda: Curriculum(TWO, chances=-1), "chances must be a whole number from 0"),
        (lambda: Curriculum(TWO, max_repeats=-1), "max_repeats must be a whole"),
        (lambda: Curriculum(TWO, repeat_threshold=-1.0), "repeat_threshold must be"),
        (lambda: Curriculum(TWO, chances=1, max_periods=1), "max_periods=1 is below"),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
