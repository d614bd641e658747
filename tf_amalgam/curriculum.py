"""Curriculum: from the validations of a run to what it does next. Pure logic.

A run goes through stages of growing unrolls. A stage is made of periods (some
meta-epochs each); after each comes a validation at the *next* stage's length, so that
a student is chosen by what it will have to do (Chen et al. 2020a; the released code of
Huang et al. 2022). A period after which validation is much worse is repeated from the
stage's best weights, a few times at most, and never built upon; a stage hands its best
weights on to the next.
"""

import dataclasses
import math
from typing import NamedTuple

from tf_amalgam.checks import check_number, check_whole


@dataclasses.dataclass(frozen=True)
class Stage:
    """Periods of one unroll length.

    Attributes:
        unroll: inner steps of an unroll; a multiple of the truncation's.
        periods: at least this many.
        alpha: weight of the imitation loss; `None` takes the run's.
        teacher_forcing: the teachers move the optimizees, each its own ones, and the
            student learns to take the same steps (Williams and Zipser 1989): α times
            the mean of the log distances to them, whatever the scheme, is the whole
            loss, on a sample of at most 4,096 coordinates an optimizee (on all, for a
            rule that sees whole tensors). Without random scaling, of which no step of a
            teacher tells, in validation neither. For a first stage, so that a student
            starts as a teacher, not as nothing.
        meta_learning_rate: of its meta-updates; `None` takes the run's. A lower one
            after a stage of teacher forcing makes a better copy.
    """

    unroll: int
    periods: int
    alpha: float | None = None
    teacher_forcing: bool = False
    meta_learning_rate: float | None = None

    def __post_init__(self):
        for field in ("unroll", "periods"):
            _check_count(self, field, 1)
        # A True in alpha's place is a teacher_forcing without an alpha before it.
        check_number("Stage: alpha", self.alpha, or_none=True)
        if not isinstance(self.teacher_forcing, bool):
            raise ValueError(
                "Stage: teacher_forcing must be True or False, received "
                f"{self.teacher_forcing!r}."
            )
        name, rate = "Stage: meta_learning_rate", self.meta_learning_rate
        check_number(name, rate, above=True, or_none=True)


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Stages, and when to leave, end or repeat a period.

    Attributes:
        stages: sequence of `Stage`.
        chances: a stage goes on beyond its `periods` until its best validation is
            this many periods old; 0 ends it there ("simple" strategy).
        max_periods: end of a stage whatever its chances.
        repeat_threshold: a period is repeated if its validation exceeds the stage's
            best by more than this share of its size; `None` never repeats.
        max_repeats: times that one period is repeated; then it is given up and the
            run goes on from the best.
    """

    stages: tuple[Stage, ...]
    chances: int = 0
    max_periods: int = 20
    repeat_threshold: float | None = None
    max_repeats: int = 4

    def __post_init__(self):
        if not self.stages:
            raise ValueError("A run needs at least one Stage; received none.")
        _check_count(self, "chances", 0)
        _check_count(self, "max_repeats", 0)
        _check_count(self, "max_periods", 1)
        longest = max(stage.periods for stage in self.stages)
        if self.chances and self.max_periods < longest:
            raise ValueError(
                f"Curriculum: max_periods={self.max_periods} is below the {longest} "
                "periods that a stage has at least."
            )
        name = "Curriculum: repeat_threshold"
        check_number(name, self.repeat_threshold, or_none=True)

    def validation_unroll(self, stage: int) -> int:
        """Returns the inner steps of a validation: the next stage's, or the last's."""
        return self.stages[min(stage + 1, len(self.stages) - 1)].unroll


class Progress(NamedTuple):
    """Where a run stands in its curriculum."""

    stage: int = 0
    period: int = 0  # periods of this stage that are over, repeats not counted
    repeats: int = 0  # times the present period has been repeated
    started: bool = False  # the stage's first weights are validated
    best_score: float = math.inf  # of this stage; lower is better
    best_period: int = 0
    finished: bool = False


class Verdict(NamedTuple):
    """What a validation means for the weights it was made of."""

    progress: Progress
    best: bool  # they are the stage's best so far
    # "continue" from these weights; from the stage's best "repeat" the period or
    # "abandon" it and go on; hand the best to the "next" stage; or "finish".
    then: str


def judge(curriculum: Curriculum, progress: Progress, score: float) -> Verdict:
    """Returns what follows from the validation score after a period.

    A stage's first validation is of the weights it was handed, before any period.
    """
    score = score if math.isfinite(score) else math.inf
    if not progress.started:
        started = progress._replace(started=True, best_score=score)
        return Verdict(started, best=True, then="continue")
    lost = _much_worse(curriculum, progress, score)
    if lost and progress.repeats < curriculum.max_repeats:
        again = progress._replace(repeats=progress.repeats + 1)
        return Verdict(again, best=False, then="repeat")
    progress = progress._replace(period=progress.period + 1, repeats=0)
    best = score < progress.best_score
    if best:
        progress = progress._replace(best_score=score, best_period=progress.period)
    if _goes_on(curriculum, progress):
        return Verdict(progress, best=best, then="abandon" if lost else "continue")
    if progress.stage + 1 < len(curriculum.stages):
        following = Progress(stage=progress.stage + 1)
        return Verdict(following, best=best, then="next")
    return Verdict(progress._replace(finished=True), best=best, then="finish")


def _much_worse(curriculum, progress, score):
    if curriculum.repeat_threshold is None:
        return False
    best = progress.best_score
    return score > best + curriculum.repeat_threshold * abs(best)


def _goes_on(curriculum, progress):
    if progress.period < curriculum.stages[progress.stage].periods:
        return True
    if progress.period >= curriculum.max_periods:
        return False
    return progress.period - progress.best_period < curriculum.chances


def _check_count(thing, field, least):
    check_whole(f"{type(thing).__name__}: {field}", getattr(thing, field), least)
