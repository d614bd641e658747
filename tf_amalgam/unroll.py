"""Inner steps as loops over pure functions: teachers, the student, and its adjoint.

The student's unroll x_{t+1} = F(φ, x_t) is differentiated by its adjoint, written
out, instead of by taping a loop. With the optimizee's gradient g_t kept from the
forward pass, one step backwards needs

  * the vector-Jacobian product of the *rule* (small: no network inside), and
  * λ_g ↦ H_t λ_g, one Hessian-vector product of the *optimizee* (second order).

So no activation of the network outlives its step, the meta loss costs no further
pass (its gradient is g_t/M_t), and the first-order option needs no network at all
on the way back.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from tf_amalgam.numerics import LOG_EPSILON


class Side(NamedTuple):
    """Where one optimizer stands on one optimizee."""

    params_P: Any
    rule_state: Any  # the rule's NamedTuple of [P, …]
    model_state: Any  # tuple: BatchNorm statistics and the like


class Trace(NamedTuple):
    """What the student's forward pass keeps for the way back."""

    params: tf.TensorArray  # T × [P], before each update
    grads: tf.TensorArray  # T × [P]
    losses: tf.TensorArray  # T × []
    model_states: tuple  # T × each tensor of the model's state
    borders: tuple  # T/segment × each tensor of the rule's state


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


def take(batches, i):
    """Returns minibatch i of arrays `[T, B, …]`."""
    return tuple(tf.gather(part, i) for part in batches)


def like_arrays(tensors, size):
    """Returns an empty TensorArray of `size` elements for each tensor's kind."""
    return tuple(
        tf.TensorArray(t.dtype, size, element_shape=t.shape, clear_after_read=False)
        for t in tensors
    )


def write_all(arrays, i, values):
    """Writes one value into each array at place i."""
    return tuple(a.write(i, v) for a, v in zip(arrays, values, strict=True))


def read_all(arrays, i):
    """Returns the values at place i of each array."""
    return tuple(a.read(i) for a in arrays)


def step_count(start, i, dtype):
    """Returns the number of gradients seen with that of step i, from 1."""
    return tf.cast(start + i + 1, dtype)


def losses_at(task, params_P, model_state, batches):
    """Returns the loss `[T]` of every minibatch at one fixed point (forward only)."""
    steps = batches[0].shape[0]

    def body(i, losses):
        loss, _ = task.loss(params_P, model_state, take(batches, i))
        return losses.write(i, loss)

    empty = tf.TensorArray(params_P.dtype, steps, element_shape=())
    return count_up(steps, body, empty).stack()


def unroll_teacher(task, rule, weights, side, batches, start):
    """Runs one teacher freely; returns `(side, params, losses_T)`.

    `params` is a TensorArray of the T points after each update. Outside any tape:
    a teacher never depends on φ.
    """
    steps = batches[0].shape[0]
    dtype = side.params_P.dtype

    def body(i, carry):
        (params_P, rule_state, model_state), params, losses = carry
        loss, grads_P, model_state = task.value_and_grad(
            params_P, model_state, take(batches, i)
        )
        delta_P, rule_state = rule.update(
            weights,
            grads_P,
            params_P,
            rule_state,
            task.layout,
            step_count(start, i, dtype),
        )
        params_P += delta_P
        side = Side(params_P, rule_state, model_state)
        return side, params.write(i, params_P), losses.write(i, loss)

    (params,) = like_arrays((side.params_P,), steps)
    losses = tf.TensorArray(dtype, steps, element_shape=())
    side, params, losses = count_up(steps, body, (side, params, losses))
    return side, params, losses.stack()


def unroll_student(task, step_fn, side, batches, start, *, segment, observe):
    """Runs the student forward; returns `(side, trace, observations)`.

    Args:
        step_fn: `(grads_P, params_P, rule_state, step) -> (params_P, rule_state)`.
        segment: steps between two kept rule states.
        observe: `(i, params_P, observations) -> observations` after each update,
            started from `observe(None, None, None)`.
    """
    steps = batches[0].shape[0]
    dtype = side.params_P.dtype

    def body(i, carry):
        (params_P, rule_state, model_state), trace, seen = carry
        if segment == 1:
            borders = write_all(trace.borders, i, rule_state)
        else:
            borders = tf.cond(
                i % segment == 0,
                lambda: write_all(trace.borders, i // segment, rule_state),
                lambda: trace.borders,
            )
        loss, grads_P, next_model_state = task.value_and_grad(
            params_P, model_state, take(batches, i)
        )
        trace = Trace(
            trace.params.write(i, params_P),
            trace.grads.write(i, grads_P),
            trace.losses.write(i, loss),
            write_all(trace.model_states, i, model_state),
            borders,
        )
        params_P, rule_state = step_fn(
            grads_P, params_P, rule_state, step_count(start, i, dtype)
        )
        side = Side(params_P, rule_state, next_model_state)
        return side, trace, observe(i, params_P, seen)

    params, grads = like_arrays((side.params_P, side.params_P), steps)
    trace = Trace(
        params,
        grads,
        tf.TensorArray(dtype, steps, element_shape=(), clear_after_read=False),
        like_arrays(side.model_state, steps),
        like_arrays(side.rule_state, -(-steps // segment)),
    )
    return count_up(steps, body, (side, trace, observe(None, None, None)))


def student_adjoint(
    task,
    step_fn,
    step_loss,
    weights,
    trace,
    rule_state,
    batches,
    start,
    *,
    segment,
    second_order,
):
    """Returns d(loss)/dφ by name, for loss = mean_t [log M_t + step_loss_t].

    Args:
        step_fn: as in `unroll_student`, reading the tensors of `weights`.
        step_loss: `(i, params_P) -> scalar` at the point *after* step i.
        weights: dict of the tensors φ.
        rule_state: any state of the rule: its structure, shapes and dtypes.
        second_order: whether g_t's dependence on θ_t counts.
    """
    steps = batches[0].shape[0]
    dtype = rule_state[0].dtype if rule_state else trace.params.dtype
    share = tf.constant(1.0 / steps, dtype)
    names, phi = list(weights), list(weights.values())

    def back_one(i, state, carry):
        adjoint_P, adjoint_state, total = carry
        params_P, grads_P = trace.params.read(i), trace.grads.read(i)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            sources = (phi, params_P, grads_P, state)
            tape.watch(sources)
            next_P, next_state = step_fn(
                grads_P, params_P, state, step_count(start, i, dtype)
            )
            loss = share * step_loss(i, next_P)
        phi_bar, params_bar, grads_bar, state_bar = tape.gradient(
            (next_P, next_state, loss),
            sources,
            output_gradients=(adjoint_P, adjoint_state, tf.ones_like(loss)),
            unconnected_gradients="zero",
        )
        params_bar += _through_optimizee(i, params_P, grads_P, grads_bar)
        total = [a + b for a, b in zip(total, phi_bar, strict=True)]
        return params_bar, state_bar, total

    def _through_optimizee(i, params_P, grads_P, grads_bar):
        """Returns d/dθ_t of [share·log M_t + ⟨λ_g, g_t⟩]."""
        per_loss = share / (trace.losses.read(i) + LOG_EPSILON)
        if not second_order:
            return per_loss * grads_P
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(params_P)
            _, again_P, _ = task.value_and_grad(
                params_P, read_all(trace.model_states, i), take(batches, i)
            )
        curved_P = tape.gradient(
            again_P, params_P, output_gradients=grads_bar, unconnected_gradients="zero"
        )
        return per_loss * grads_P + curved_P

    zeros = lambda tree: tf.nest.map_structure(tf.zeros_like, tree)  # noqa: E731
    carry = (zeros(trace.params.read(0)), zeros(rule_state), zeros(phi))

    def restore(i):
        return type(rule_state)(*read_all(trace.borders, i))

    if segment == 1:
        carry = count_up(
            steps,
            lambda n, carry: back_one(steps - 1 - n, restore(steps - 1 - n), carry),
            carry,
        )
        return dict(zip(names, carry[2], strict=True))

    segments = -(-steps // segment)

    def back_segment(n, carry):
        first = (segments - 1 - n) * segment
        length = tf.minimum(segment, steps - first)

        def replay(j, inner):
            state, states = inner
            i = first + j
            _, state = step_fn(
                trace.grads.read(i),
                trace.params.read(i),
                state,
                step_count(start, i, dtype),
            )
            return state, write_all(states, j + 1, state)

        border = restore(first // segment)
        kept = write_all(like_arrays(rule_state, segment), 0, border)
        _, kept = count_up(length - 1, replay, (border, kept))

        def back(j, carry):
            at = length - 1 - j
            return back_one(first + at, type(rule_state)(*read_all(kept, at)), carry)

        return count_up(length, back, carry)

    carry = count_up(segments, back_segment, carry)
    return dict(zip(names, carry[2], strict=True))
