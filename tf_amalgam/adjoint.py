"""The adjoint of the student's unroll, d(loss)/dφ.

The unroll x_{t+1} = F(φ, x_t) is differentiated by its adjoint, written out, instead of
by taping a loop. With the optimizee's gradient g_t kept from the forward pass, one step
backwards needs

  * the vector-Jacobian product of the *rule* (small: no network inside), and
  * λ_g ↦ H_t λ_g, one Hessian-vector product of the *optimizee* (second order).

So no activation of the network outlives its step, the meta loss costs no further
pass (its gradient is g_t/M_t), and the first-order option needs no network at all
on the way back. Where g_t is not ∇M_t (private gradients), the loss is
differentiated along.
"""

import tensorflow as tf

from tf_amalgam.numerics import log_loss_slope
from tf_amalgam.unroll import (
    count_up,
    like_arrays,
    read_all,
    step_count,
    take,
    write_all,
)


def student_adjoint(
    task,
    step_fn,
    weights,
    trace,
    rule_state,
    batches,
    start,
    *,
    segment,
    second_order,
    led=False,
):
    """Returns d(loss)/dφ by name, for loss = mean_t [log M_t + step loss_t].

    A step loss is a function of the point after the step; `trace` has its gradient.

    Args:
        step_fn: as in `unroll.unroll_forward`, reading the tensors of `weights`; with
            `taped=True` under a tape.
        weights: dict of the tensors φ.
        rule_state: any state of the rule: its structure, shapes and dtypes.
        second_order: whether g_t's dependence on θ_t counts.
        led: whether a teacher moved the optimizee. No θ_t depends on φ then, nor does
            M_t; only the step losses and the rule's states do.
    """
    steps = batches[0].shape[0]
    dtype = trace.params.dtype
    share = tf.constant(1.0 / steps, dtype)
    names, phi = list(weights), list(weights.values())

    def back_one(i, state, carry):
        with tf.name_scope("way_back"):
            return _back_one(i, state, carry)

    def _back_one(i, state, carry):
        adjoint_P, adjoint_state, total = carry
        params_P, grads_P = trace.params.read(i), trace.grads.read(i)
        for pull_P in read_all(trace.pulls, i):  # one, or none
            adjoint_P += share * pull_P
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            sources = (phi, params_P, grads_P, state)
            tape.watch(sources)
            next_P, next_state = step_fn(
                grads_P, params_P, state, step_count(start, i, dtype), taped=True
            )
        phi_bar, params_bar, grads_bar, state_bar = tape.gradient(
            (next_P, next_state),
            sources,
            output_gradients=(adjoint_P, adjoint_state),
            unconnected_gradients="zero",
        )
        total = [a + b for a, b in zip(total, phi_bar, strict=True)]
        if led:
            return tf.zeros_like(params_bar), state_bar, total
        params_bar += _through_optimizee(i, params_P, grads_P, grads_bar)
        return params_bar, state_bar, total

    def _through_optimizee(i, params_P, grads_P, grads_bar):
        """Returns d/dθ_t of [share·log M_t + ⟨λ_g, g_t⟩]."""
        per_loss = log_loss_slope(trace.losses.read(i), share)
        if task.exact_gradients and not second_order:
            return per_loss * grads_P
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(params_P)
            loss, again_P, _ = task.value_and_grad(
                params_P, read_all(trace.model_states, i), take(task, batches, i)
            )
        targets = [(again_P, grads_bar)] if second_order else []
        if not task.exact_gradients:
            targets.append((loss, per_loss))
        curved_P = tape.gradient(
            [target for target, _ in targets],
            params_P,
            output_gradients=[adjoint for _, adjoint in targets],
            unconnected_gradients="zero",
        )
        return curved_P + (per_loss * grads_P if task.exact_gradients else 0.0)

    zeros = lambda tree: tf.nest.map_structure(tf.zeros_like, tree)  # noqa: E731
    carry = (zeros(trace.params.read(0)), zeros(rule_state), zeros(phi))

    def restore(i):
        return tf.nest.pack_sequence_as(rule_state, read_all(trace.borders, i))

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
            state = tf.nest.pack_sequence_as(rule_state, read_all(kept, at))
            return back_one(first + at, state, carry)

        return count_up(length, back, carry)

    carry = count_up(segments, back_segment, carry)
    return dict(zip(names, carry[2], strict=True))
