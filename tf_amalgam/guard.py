"""When a learned optimizer hands over to a known one: pure logic.

Beside the learned rule an analytic one, the fallback, watches the same gradients. It
takes over for a while, longer each time, where the learned step is not finite, points
or reaches out of bounds, the loss has climbed, or who fell before does not keep up.
"""

import dataclasses
from typing import Any, NamedTuple

from keras import ops

from tf_amalgam.rules.adam import Adam
from tf_amalgam.rules.rule import AnalyticRule, check_positive
from tf_amalgam.rules.teachers import LEARNING_RATES, as_config, from_config

ADAM = Adam(LEARNING_RATES["adam"])
# Share of its past that the average of the loss keeps at each step.
DECAY = 0.95
# The same of the variance around it: slower, or a climb would soon pass for noise.
VARIANCE_DECAY = 0.998
# Losses after which average and variance mean something.
SETTLING = 20
# Losses in a row that are not finite: what was lost does not come back by itself.
BROKEN = 2.0
# Nor is one of so much: squares from 1.8e19 on are beyond float32, and noise for good.
HUGE = 1e18
# Share of the loss at the start that counts: less is no climb, whatever was gained, and
# no progress.
FLOOR = 0.1
# Standard deviations of the average that are noise: thousands of steps on a plateau
# have a lowest and a highest one. With these numbers 27 of 432 trainings (24
# optimizers, six optimizees) were called a climb: the loss of 21 rose by more than
# 60 %, that of five on CIFAR-10 fell back to knowing nothing, and one rose by a sixth
# (benchmarks/climbs.py, before only a tenth counted as lower in the first 300 steps).
NOISE = 8.0
# In so many times `patience` steps after the warm-up an optimizer must gain the share
# FLOOR of the loss, or the fallback shows what it can do.
AUDITION = 3.0
# Share of the fallback's gain a step that the optimizer, back again, must have.
SHARE = 0.5
# Each fallback lasts so many times the last: a net whose optimizer will not do is the
# fallback's for all but a few hundred steps.
GROWTH = 4.0


@dataclasses.dataclass(frozen=True)
class Guard:
    """When to fall back, on what, and for how long.

    On Train the steps of six students, ours and the authors', were .4 to 2.4 times as
    long as the default fallback's, and their cosines .3 to 1 (350 steps each).

    Attributes:
        fallback: an analytic rule; by default Adam at the rate of the paper's
            authors, bias-corrected.
        size: a learned step longer than so many times the fallback's is out of bounds.
        cosine: so is one whose cosine with the fallback's is below this.
        climb: the loss has climbed when its running average has lost more than this
            share of all that was gained (since the warm-up, once it is over) and a
            tenth of the loss at the start (any share where the optimizer fell
            before), and more than its noise explains.
        patience: steps of the first fallback; each further one is four times as long.
            After so many, again and again, the optimizer, back, must have gained half
            of what the fallback gained in as many. The fallback takes over, too, where
            in its first three times as many steps an optimizer gains less than a tenth
            of the loss.

    Where the loss climbed or too little was gained, parameters go back to where the
    average was lowest; before a tenth of the loss was gained, to what they began with.
    """

    fallback: AnalyticRule = ADAM
    size: float = 10.0
    cosine: float = 0.0
    climb: float = 0.2
    patience: int = 100

    def __post_init__(self):
        if isinstance(self.fallback, dict):
            object.__setattr__(self, "fallback", from_config(self.fallback))
        if not isinstance(self.fallback, AnalyticRule):
            raise ValueError(
                f"Guard: fallback must be an analytic rule, received {self.fallback!r}."
            )
        check_positive(self, "size", "climb", "patience")
        if not -1.0 <= self.cosine < 1.0:
            raise ValueError(
                f"Guard: cosine must be in [-1, 1), received {self.cosine!r}."
            )

    @classmethod
    def of(cls, given):
        """Returns the guard that True, False, None, a config or a `Guard` means."""
        if given is None or given is False:
            return None
        if given is True:
            return cls()
        if isinstance(given, dict):
            return cls(**given)
        if isinstance(given, cls):
            return given
        raise ValueError(f"guard must be True, False or a Guard, received {given!r}.")

    def get_config(self) -> dict:
        """Returns what `of` makes the same guard of, ready for JSON."""
        config = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**config, "fallback": as_config(self.fallback)}


class Watch(NamedTuple):
    """What the guard remembers between two steps; scalars."""

    average: Any = 0.0  # running average of the loss
    variance: Any = 0.0  # of the loss around it
    recent: Any = 0.0  # the same of as many losses as the average has
    start: Any = 0.0  # the first loss, after a warm-up the average at its end
    best: Any = 0.0  # the lowest average
    best_variance: Any = 0.0  # when it was
    seen: Any = 0.0  # losses that count
    broken: Any = 0.0  # the last so many losses were not finite
    began: Any = 0.0  # the step after which everything began anew
    left: Any = 0.0  # steps for which the fallback stays in charge
    mark: Any = 0.0  # average when the one in charge began
    pace: Any = 0.0  # what the fallback gained a step
    trial: Any = 0.0  # steps until it is seen whether the optimizer gains enough
    gradients: Any = 0.0  # steps that were left out: gradient not finite
    bounds: Any = 0.0  # times a learned step was out of bounds
    climbs: Any = 0.0  # times the loss had climbed
    lags: Any = 0.0  # times the optimizer gained too little
    fallback_steps: Any = 0.0

    @property
    def falls(self):
        """Times that the fallback took over."""
        return self.bounds + self.climbs + self.lags


def out_of_bounds(guard, delta_P, fallback_P, warm):
    """Returns whether a step is not finite, too long, or against the fallback's.

    A step of the warm-up, plain gradient descent, may go against it: averages of
    gradients lag behind.
    """
    size, other = ops.sum(ops.square(delta_P)), ops.sum(ops.square(fallback_P))
    along = ops.sum(delta_P * fallback_P)
    # A little less, for rounding: at −1 every direction is in bounds.
    directed = along >= (guard.cosine - 1e-5) * ops.sqrt(size * other)
    inside = ops.logical_and(
        size <= guard.size**2 * other, ops.logical_or(warm, directed)
    )
    # No comparison with a number that is none holds.
    return ops.logical_not(inside)


def with_loss(guard, watch, loss):
    """Returns (the watch after a loss, whether it is lowest, whether it climbed).

    A loss that is not finite, or is huge after smaller ones, has climbed if it is the
    second in a row: the first may come of an odd minibatch. Zeros before the first loss
    (of minibatches whose examples all have weight 0) say nothing.
    """
    finite = ops.abs(loss) < HUGE  # nor is a NaN
    # Where all are huge, that is no sign of a loss.
    alike = ops.logical_and(ops.isfinite(loss), watch.seen == 0.0)
    counts = ops.logical_and(finite, ops.logical_or(watch.seen > 0.0, loss != 0.0))
    number = ops.cast(counts, "float32")
    seen = watch.seen + number
    first = ops.logical_and(counts, seen == 1.0)
    loss = ops.where(counts, loss, watch.average)
    start = ops.where(first, loss, watch.start)
    off = ops.where(first, 0.0, loss - watch.average)
    # As if the first losses had been averaged: weights fall from 1 to 1 − decay.
    weight, slow = (
        number * (1.0 - decay) / (1.0 - ops.power(decay, ops.maximum(seen, 1.0)))
        for decay in (DECAY, VARIANCE_DECAY)
    )
    average = ops.where(first, loss, watch.average + weight * off)
    variance = (1.0 - slow) * (watch.variance + slow * ops.square(off))
    recent = (1.0 - weight) * (watch.recent + weight * ops.square(off))
    best = ops.where(first, loss, watch.best)
    # Of the losses before, or a jump would pass for noise.
    noise = NOISE * ops.sqrt(watch.variance * (1.0 - DECAY) / (1.0 + DECAY))
    most = ops.maximum(guard.climb * (start - best), FLOOR * ops.abs(start))
    most = ops.maximum(ops.where(watch.falls > 0.0, 0.0, most), noise)
    settled = ops.logical_and(counts, seen > SETTLING)
    fine = ops.logical_or(finite, alike)
    broken = ops.where(fine, 0.0, watch.broken + 1.0)
    climbed = ops.logical_or(
        ops.logical_and(settled, average - best > most), broken >= BROKEN
    )
    # At first a tenth lower, or fresh parameters would be given up for spoilt ones.
    hearing = ops.logical_and(watch.falls == 0.0, watch.trial > 0.0)
    least = best - FLOOR * ops.cast(hearing, "float32") * ops.abs(best)
    lowest = ops.logical_and(counts, ops.logical_or(first, average <= least))
    watch = watch._replace(
        average=average,
        variance=variance,
        recent=recent,
        start=start,
        best=ops.where(lowest, average, best),
        best_variance=ops.where(lowest, variance, watch.best_variance),
        mark=ops.where(first, loss, watch.mark),
        trial=ops.where(first, AUDITION * guard.patience, watch.trial),
        seen=seen,
        broken=broken,
    )
    return watch, lowest, climbed


def from_here(guard, watch, here):
    """Returns the watch that begins to judge, if this is `here`, a warm-up's end.

    The learned optimizer is not credited with what the warm-up gained, nor does the
    way down from the first losses pass for noise.
    """
    calm = ops.minimum(watch.recent, watch.variance)
    first = ops.logical_and(here, watch.falls == 0.0)
    return watch._replace(
        start=ops.where(here, watch.average, watch.start),
        variance=ops.where(here, calm, watch.variance),
        mark=ops.where(first, watch.average, watch.mark),
        trial=ops.where(first, AUDITION * guard.patience, watch.trial),
    )


def charge(guard, watch):
    """Returns how many steps the fallback stays, or stayed, for the last fall."""
    return guard.patience * ops.power(GROWTH, ops.clip(watch.falls - 1.0, 0.0, 10.0))


def on_trial(guard, watch, judged):
    """Returns (the watch a step later, whether the optimizer lags behind).

    One that fell must, in `patience` steps, again and again, gain a share of what the
    fallback gained in as many; one that did not, once, a share of the loss.

    Args:
        judged: whether the step is the optimizer's own, and not of its warm-up.
    """
    fell = watch.falls > 0.0
    last = ops.logical_and(watch.left > 0.0, watch.left <= 1.0)
    due = ops.logical_and(
        judged, ops.logical_and(watch.trial > 0.0, watch.trial <= 1.0)
    )
    gained = watch.mark - watch.average
    theirs = SHARE * guard.patience * ops.maximum(watch.pace, 0.0)
    least = ops.where(fell, theirs, FLOOR * ops.abs(watch.start))
    lags = ops.logical_and(due, gained < least)
    turn = ops.logical_or(last, due)
    rest = ops.maximum(watch.trial - ops.cast(judged, "float32"), 0.0)
    watch = watch._replace(
        mark=ops.where(turn, watch.average, watch.mark),
        pace=ops.where(last, gained / charge(guard, watch), watch.pace),
        trial=ops.where(turn, guard.patience * ops.cast(fell, "float32"), rest),
    )
    return watch, lags


def fallen(guard, watch, out, climbed, lags, step):
    """Returns the watch after the fallback took over at a step, for one reason."""
    number = lambda condition: ops.cast(condition, "float32")  # noqa: E731
    goes_back = ops.logical_or(climbed, lags)
    back = lambda best, now: ops.where(goes_back, best, now)  # noqa: E731
    known = watch.best_variance > 0.0  # one loss has none
    best_variance = ops.where(known, watch.best_variance, watch.variance)
    watch = watch._replace(
        bounds=watch.bounds + number(out),
        climbs=watch.climbs + number(climbed),
        lags=watch.lags + number(lags),
        # Where the parameters are again.
        average=back(watch.best, watch.average),
        variance=back(best_variance, watch.variance),
        broken=back(0.0, watch.broken),
        # Averages of gradients on the way up would keep the fallback slow for long.
        began=ops.where(goes_back, step, watch.began),
    )
    left = charge(guard, watch)
    return watch._replace(left=left, mark=watch.average, trial=0.0 * left)
