"""Inner steps as loops over pure functions: the student and its teachers, forward.

What the student's way back needs is kept on the way (`Trace`); that is `adjoint`.
"""

import functools
from typing import Any, NamedTuple

import tensorflow as tf


class Side(NamedTuple):
    """Where one optimizer stands on one optimizee."""

    params_P: Any
    rule_state: Any  # the rule's NamedTuple
    model_state: Any  # tuple: BatchNorm statistics and the like


class Trace(NamedTuple):
    """What the student's forward pass keeps for the way back."""

    params: tf.TensorArray  # T × [P], before each update
    grads: tf.TensorArray  # T × [P]
    losses: tf.TensorArray  # T × []
    model_states: tuple  # T × each tensor of the model's state
    borders: tuple  # T/segment × each tensor of the rule's state, and a spare place
    pulls: tuple  # T × [P], d(step loss)/dθ after each update; () without teachers


class Forward(NamedTuple):
    """Where everybody ended, and what happened on the way."""

    student: Side
    teachers: tuple  # K × Side
    trace: Trace
    start_losses: tf.TensorArray  # T × [], at the origin
    teacher_losses: tuple  # K × T × []
    distances: tf.TensorArray  # T × [K]


def count_up(steps, body, carry):
    """Returns carry after `carry = body(i, carry)` for i = 0 … steps − 1.

    One iteration at a time: running ahead would hold the network's activations of
    several steps at once.
    """
    return tf.while_loop(
        lambda i, carry: i < steps,
        lambda i, carry: (i + 1, body(i, carry)),
        (tf.constant(0), carry),
        parallel_iterations=1,
    )[1]


def take(task, batches, i):
    """Returns minibatch i of arrays `[T, B, …]`, prepared for all who train on it."""
    return task.prepare(tuple(tf.gather(part, i) for part in batches))


def like_arrays(tensors, size):
    """Returns an empty TensorArray of `size` elements like each (nested) tensor."""
    size = tf.convert_to_tensor(size)  # one constant for all
    return tuple(
        tf.TensorArray(t.dtype, size, element_shape=t.shape, clear_after_read=False)
        for t in tf.nest.flatten(tensors)
    )


def write_all(arrays, i, values):
    """Writes one value into each array at place i."""
    flat = tf.nest.flatten(values)
    return tuple(a.write(i, v) for a, v in zip(arrays, flat, strict=True))


def read_all(arrays, i):
    """Returns the values at place i of each array."""
    return tuple(a.read(i) for a in arrays)


def step_count(start, i, dtype):
    """Returns the number of gradients seen with that of step i, from 1."""
    return tf.cast(start + i + 1, dtype)


def in_chains(jobs):
    """Returns what each job returns; jobs run in two chains.

    One network does not fill two cores (1.6 of 2 measured), so two may be computed at
    once; no more, so that memory does not grow with the number of teachers.

    Args:
        jobs: list of (name, relative cost, function without arguments); a trace of
            TensorFlow's profiler shows the names.
    """
    results: list = [None] * len(jobs)
    loads: list[int] = [0, 0]
    last: list[list] = [[], []]
    costs = [cost for _, cost, _ in jobs]
    for place in sorted(range(len(jobs)), key=costs.__getitem__, reverse=True):
        name, cost, job = jobs[place]
        chain = loads.index(min(loads))
        with tf.name_scope(name), tf.control_dependencies(last[chain]):
            results[place] = job()
        loads[chain] += cost
        last[chain] = tf.nest.flatten(results[place])
    return results


def advance(task, step_fn, side, batch, step):
    """Returns `(loss, grads_P, side)` of one inner step."""
    with tf.name_scope("optimizee"):
        loss, grads_P, model_state = task.value_and_grad(
            side.params_P, side.model_state, batch
        )
    with tf.name_scope("rule"):
        params_P, rule_state = step_fn(grads_P, side.params_P, side.rule_state, step)
    return loss, grads_P, Side(params_P, rule_state, model_state)


def _moved(step_fn, side, grads_P, model_state, step):
    """Returns the `Side` after a step whose gradient is known."""
    with tf.name_scope("teacher"):
        params_P, rule_state = step_fn(grads_P, side.params_P, side.rule_state, step)
    return Side(params_P, rule_state, model_state)


# Relative costs of one step: a gradient is 3 forward passes, the learned rule about 2.
STUDENT_COST, TEACHER_COST, FORWARD_COST = 5, 3, 1


def unroll_forward(
    task,
    step_fn,
    teacher_steps,
    sides,
    origin,
    batches,
    start,
    *,
    segment,
    pull,
    leader=None,
):
    """Runs the student and its teachers forward, outside any tape.

    All see the same minibatches; none depends on another, unless a teacher leads.

    Args:
        step_fn: the student's `(grads_P, params_P, rule_state, step) -> (params_P,
            rule_state)`.
        teacher_steps: the same of each teacher.
        sides: `(student, teachers)`: a Side and a tuple of K.
        origin: `(params_P, model_state)` whose losses are compared with.
        batches: arrays `[T, B, …]`.
        start: gradients seen before, warm-up included.
        segment: steps between two kept rule states.
        pull: `(params_P, points) -> (distances_K, grads_P)` after each update, `points`
            being the K teachers' parameters, `grads_P` the gradient of what the
            distances add to the loss; not called without teachers.
        leader: number of the teacher that moves the optimizee for all (teacher
            forcing); what the others would have done is compared after each step and
            then dropped.

    Returns:
        A `Forward`.
    """
    steps = batches[0].shape[0]
    segments = -(-steps // segment)
    student, teachers = sides
    dtype = student.params_P.dtype
    none_K = tf.zeros(0, dtype)

    def body(i, forward):
        student, trace = forward.student, forward.trace
        batch, step = take(task, batches, i), step_count(start, i, dtype)
        mine = functools.partial(advance, task, step_fn, student, batch, step)
        jobs: list = [
            ("student", STUDENT_COST, mine),
            ("origin", FORWARD_COST, lambda: task.loss(*origin, batch)[0]),
        ]
        pairs = list(zip(teacher_steps, forward.teachers, strict=True))
        for one, side in pairs if leader is None else []:
            job = functools.partial(advance, task, one, side, batch, step)
            jobs.append(("teacher", TEACHER_COST, job))
        (loss, grads_P, moved), start_loss, *apart = in_chains(jobs)
        losses, ends = [loss for loss, _, _ in apart], [side for _, _, side in apart]
        if leader is not None:  # all are at one point: its gradient is everybody's
            losses = [loss for _ in pairs]
            ends = [_moved(*pair, grads_P, moved.model_state, step) for pair in pairs]
        points, distances_K, pulls = [side.params_P for side in ends], none_K, ()
        if points:
            distances_K, *pulls = pull(moved.params_P, points)
        if leader is not None:
            there = tf.gather(tf.stack(points), leader)
            moved, *ends = (side._replace(params_P=there) for side in (moved, *ends))
        return Forward(
            moved,
            tuple(ends),
            Trace(
                trace.params.write(i, student.params_P),
                trace.grads.write(i, grads_P),
                trace.losses.write(i, loss),
                write_all(trace.model_states, i, student.model_state),
                write_all(
                    trace.borders, _place(i, segment, segments), student.rule_state
                ),
                write_all(trace.pulls, i, pulls),
            ),
            forward.start_losses.write(i, start_loss),
            write_all(forward.teacher_losses, i, losses),
            forward.distances.write(i, distances_K),
        )

    def scalars(shape=()):
        return tf.TensorArray(dtype, steps, element_shape=shape, clear_after_read=False)

    params, grads = like_arrays((student.params_P, student.params_P), steps)
    trace = Trace(
        params,
        grads,
        scalars(),
        like_arrays(student.model_state, steps),
        like_arrays(student.rule_state, segments + (segment > 1)),
        like_arrays([student.params_P] if teachers else [], steps),
    )
    forward = Forward(
        student,
        tuple(teachers),
        trace,
        scalars(),
        tuple(scalars() for _ in teachers),
        scalars((len(teachers),)),
    )
    return count_up(steps, body, forward)


def _place(i, segment, segments):
    """Returns where step i's state goes: its segment's place if that begins here.

    Elsewhere it is the one behind all, where each state replaces the one before.
    """
    if segment == 1:
        return i
    # No tf.where: beside a GPU it would compute there, and a place is needed here.
    place = i // segment
    return place + tf.minimum(i % segment, 1) * (segments - place)
