"""What meta-training spends its time on: the summary at a run's end."""

import collections
import contextlib
import dataclasses
import statistics
import time
from typing import NamedTuple

import tensorflow as tf

from tf_amalgam import lanes
from tf_amalgam.meta_step import segment_length, student_step, taught, teacher_step
from tf_amalgam.objective import Objective
from tf_amalgam.unroll import step_count

REPEATS = 5  # measurements of a piece


class Clock:
    """Seconds that a process spent on its truncations.

    Attributes:
        seconds: by what they went to: `steps`, `data` (minibatches), and `building`,
            the first call of each program, which the others do not count.
        inner_steps: taken in `steps`, by all optimizees, by objective.
    """

    def __init__(self):
        self.seconds: dict[str, float] = collections.defaultdict(float)
        self.inner_steps: collections.Counter[Objective] = collections.Counter()

    @contextlib.contextmanager
    def on(self, what):
        """Counts the time of a `with` block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[what] += time.perf_counter() - began


class Costs(NamedTuple):
    """Of the inner steps that one call took.

    Attributes:
        inner_steps: of all optimizees, after each program's first call.
        seconds: that they took, minibatches included.
        building: seconds of the programs' first calls.
        shares: of `seconds`, by optimizee (the student's network, forth and back),
            teachers (their networks and rules), student (its rule, forth and back) and
            data.
    """

    inner_steps: int
    seconds: float
    building: float
    shares: dict

    def __str__(self):
        if not self.inner_steps:
            return f"building programs took {self.building:.1f} s; no step came after."
        told = ", ".join(f"{k} {100 * v:.0f} %" for k, v in self.shares.items())
        return (
            f"{self.inner_steps / self.seconds:.1f} inner steps a second "
            f"({self.inner_steps:,} in {self.seconds:.1f} s, after {self.building:.1f} "
            f"s of building programs): {told}"
        )


def costs(clock, pieces_of):
    """Returns `Costs`: data is measured on the way, pieces are measured alone.

    Args:
        pieces_of: function of an objective, returns seconds of a step by piece. Those
            that differ in α alone have the same ones.
    """
    data, steps = clock.seconds["data"], clock.inner_steps.total()
    seconds, shares = clock.seconds["steps"] + data, {}
    same: collections.Counter = collections.Counter()
    for objective, count in clock.inner_steps.items():
        same[dataclasses.replace(objective, alpha=1.0)] += count
    work: collections.Counter = collections.Counter()
    for objective, count in same.items():
        for name, part in pieces_of(objective).items():
            work[name] += count * part
    if steps:
        rest = (seconds - data) / seconds / work.total()
        shares = {name: rest * part for name, part in work.items()}
        shares["data"] = data / seconds
    return Costs(steps, seconds, clock.seconds["building"], shares)


def pieces_of_a_step(task, players, objective, weights, carry, batches):
    """Returns seconds of one inner step by who needs them, each compiled alone.

    Args:
        carry: a fresh optimizee; its first minibatch is taken.
        batches: arrays `[T, B, …]`.
    """
    student, exact = carry.student, task.exact_gradients
    coordinates = taught(task, players.student, objective, carry.seed)
    way = lanes.way_of(players.student, weights, coordinates.layout)
    rule_state = way.cut(coordinates.of(student.rule_state))
    batch = task.prepare(tuple(part[0] for part in batches))
    step = step_count(carry.step, 0, student.params_P.dtype)
    step_fn = student_step(
        task,
        players.student,
        weights,
        carry.scale_P,
        (objective, carry.seed),
        coordinates,
    )

    def gradient(params_P):
        return task.value_and_grad(params_P, student.model_state, batch)

    def curved(params_P):
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(params_P)
            loss, grads_P, _ = gradient(params_P)
        target = grads_P if objective.second_order else loss
        return tape.gradient(target, params_P, unconnected_gradients="zero")

    def rule(params_P, grads_P):
        return step_fn(grads_P, params_P, rule_state, step)

    def rule_back(params_P, grads_P):
        phi = list(weights.values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            sources = (phi, params_P, grads_P, rule_state)
            tape.watch(sources)
            moved = step_fn(grads_P, params_P, rule_state, step, taped=True)
        return tape.gradient(moved, sources, unconnected_gradients="zero")

    def rules(params_P, grads_P):
        return [
            teacher_step(task, one, fixed)(grads_P, params_P, side.rule_state, step)
            for one, fixed, side in zip(
                players.teachers, players.teacher_weights, carry.teachers, strict=True
            )
        ]

    at, params_P = carry.scale_P, student.params_P
    one_gradient, one_rule = _seconds(gradient, params_P), _seconds(rule, params_P, at)
    optimizee = one_gradient + _seconds(
        lambda p: task.loss(p, student.model_state, batch)[0], params_P
    )
    forced = objective.teacher_forcing
    if not forced and (objective.second_order or not exact):
        optimizee += _seconds(curved, params_P)
    segment = segment_length(
        objective, batches[0].shape[0], rule_state, players.teachers
    )
    again = 1.0 - 1.0 / segment
    found = {"optimizee": optimizee}
    if players.teachers:
        count = 0 if forced else len(players.teachers)
        found["teachers"] = count * one_gradient + _seconds(rules, params_P, at)
    found["student"] = (1.0 + again) * one_rule + _seconds(rule_back, params_P, at)
    return found


def _seconds(function, *arguments):
    """Returns the median time of a call of a compiled function."""
    compiled = tf.function(function, autograph=False)
    times = []
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        tf.nest.map_structure(lambda t: t.numpy(), compiled(*arguments))
        times.append(time.perf_counter() - began)
    return statistics.median(times[1:])
