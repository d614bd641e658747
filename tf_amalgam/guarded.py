"""One step of an optimizer under guard; its state is in variables."""

from typing import Any, NamedTuple

from keras import ops

from tf_amalgam.advance import advance, rows, with_rows
from tf_amalgam.guard import (
    Watch,
    fallen,
    from_here,
    on_trial,
    out_of_bounds,
    with_loss,
)


class Kept(NamedTuple):
    """Variables that a guard needs, of Keras or of the backend."""

    fallback: list  # blocks of the fallback's state
    best: Any  # [P] parameters where the loss was lowest
    averages: list  # moving averages of the parameters (EMA); [] without
    watch: Watch


class Moment(NamedTuple):
    """What a step is taken from."""

    grads_P: Any
    params_P: Any
    step: Any  # gradients seen, this one included, since everything began (anew)
    rate: Any  # learning rate
    warm: Any  # whether it is the warm-up; None if it never is
    last_warm: Any = None  # whether it is the last step of the warm-up
    loss: Any = None  # where it is known
    every_P: Any = None  # parameters of all tensors, where the loss is known


def guarded_step(guard, kept, place, now, own_step):
    """Returns a step under guard; variables of the guard's and states are assigned.

    Args:
        guard: a `Guard`.
        kept: `Kept`.
        place: `Place` of the tensors that have a gradient.
        now: the `Moment`; its step counts from the first.
        own_step: `(moment, held, afresh) -> delta_P` of the guarded optimizer.

    Returns:
        `(delta_P, goes_back, best_P)`: what to add to the parameters, but where it is
        time to go back; then they are to be the best so far.
    """
    watch = Watch(*(ops.convert_to_tensor(v) for v in kept.watch))
    fine = ops.all(ops.isfinite(now.grads_P))
    count, no = now.step, ops.convert_to_tensor(False)
    now = now._replace(
        grads_P=ops.where(fine, now.grads_P, ops.zeros_like(now.grads_P)),
        step=count - watch.began,
        warm=no if now.warm is None else now.warm,
    )
    afresh = now.step == 1.0
    idle = watch.left > 0.0
    own_P = own_step(now, ops.logical_or(now.warm, idle), afresh)
    seen = (now.grads_P, now.params_P, now.step)
    known_P = advance(guard.fallback, {}, kept.fallback, place, *seen, afresh=afresh)
    fallback_P = now.rate * known_P
    ours = ops.logical_and(fine, ops.logical_not(idle))
    # The warm-up's learning rate is its own, whatever the schedule says.
    beside_P = ops.where(now.warm, known_P, fallback_P)
    out = ops.logical_and(ours, out_of_bounds(guard, own_P, beside_P, now.warm))
    before, climbed, lags = ops.convert_to_tensor(kept.best), no, no
    if now.loss is not None:
        # What was there at the first loss that was told, be it of no first step.
        unset = ops.logical_and(watch.seen == 0.0, ops.all(before == 0.0))
        begins = ops.logical_or(count == 1.0, unset)
        before = ops.where(begins, now.every_P, before)
    best_P = rows(before, place)
    if now.loss is not None:
        watch, lowest, rose = with_loss(guard, watch, ops.cast(now.loss, "float32"))
        lost = watch.broken > 0.0  # whoever is in charge
        climbed = ops.logical_and(rose, ops.logical_or(ours, lost))
        if now.last_warm is not None:
            watch = from_here(guard, watch, now.last_warm)
        judged = ops.logical_and(ours, ops.logical_not(now.warm))
        watch, lags = on_trial(guard, watch, judged)
        here = with_rows(before, ops.where(lowest, now.params_P, best_P), place)
    out = ops.logical_and(out, ops.logical_not(climbed))
    lags = ops.logical_and(lags, ops.logical_not(ops.logical_or(out, climbed)))
    falls = ops.logical_or(out, ops.logical_or(climbed, lags))
    by_fallback = ops.logical_or(falls, idle)
    watch = watch._replace(
        left=ops.maximum(watch.left - 1.0, 0.0),
        gradients=watch.gradients + ops.cast(ops.logical_not(fine), "float32"),
        fallback_steps=watch.fallback_steps + ops.cast(by_fallback, "float32"),
    )
    delta_P = ops.where(by_fallback, fallback_P, own_P)
    delta_P = ops.where(fine, delta_P, ops.zeros_like(delta_P))
    goes_back = ops.logical_or(climbed, lags)
    # A copy: the variable that it may be is assigned below.
    best_P = ops.where(goes_back, best_P, now.params_P)
    fell = fallen(guard, watch, out, climbed, lags, count)
    for variable, new, old in zip(kept.watch, fell, watch, strict=True):
        variable.assign(ops.where(falls, new, old))
    if now.loss is not None:
        kept.best.assign(here)
        bests = place.part.split(best_P)
        for average, best in zip(kept.averages, bests, strict=False):  # or none
            was = ops.convert_to_tensor(average)
            average.assign(ops.where(goes_back, ops.cast(best, was.dtype), was))
    return delta_P, goes_back, best_P
