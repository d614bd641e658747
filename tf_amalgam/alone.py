"""A student that trains one optimizee alone: how well it does, and what it decides."""

import tensorflow as tf

from tf_amalgam import lanes, unroll
from tf_amalgam.meta_step import student_step
from tf_amalgam.numerics import log_loss
from tf_amalgam.unroll import Side

# Validation looks at up to this many held-out examples, this many times an unroll.
VALIDATION_EXAMPLES = 1000
VALIDATION_LOOKS = 20


def held_out_score(task, rule, weights, carry, batches, held_out):
    """Returns `(score, final)` of a student training one optimizee alone.

    Along the unroll the loss of held-out examples is taken about 20 times; the
    score is the mean of its logarithm minus that at the start, `final` the last of
    these differences. Both are natural logarithms; below 0 is better.
    """
    steps = batches[0].shape[0]
    looks = min(VALIDATION_LOOKS, steps)
    step_fn = student_step(task, rule, weights, carry.scale_P)
    dtype = carry.start_params_P.dtype
    held_out = task.prepare(held_out)

    def log_loss_of(side):
        loss = task.held_out_loss(side.params_P, side.model_state, held_out)
        return log_loss(loss)

    def inner(i, side):
        batch = unroll.take(task, batches, i)
        step = unroll.step_count(carry.step, i, dtype)
        return unroll.advance(task, step_fn, side, batch, step)[2]

    def look(n, seen):
        side, total, _ = seen
        first, last = n * steps // looks, (n + 1) * steps // looks
        side = unroll.count_up(last - first, lambda j, s: inner(first + j, s), side)
        now = log_loss_of(side)
        return side, total + now, now

    way = lanes.way_of(rule, weights, task.layout)
    student = carry.student
    rule_state = way.cut(student.rule_state)
    way.compile_ahead(weights, rule_state, dtype, back=False)
    start = log_loss_of(student)
    student = student._replace(rule_state=rule_state)
    zero = tf.zeros((), dtype)
    _, total, final = unroll.count_up(looks, look, (student, zero, zero))
    return total / looks - start, final - start


def mixing_trace(task, rule, weights, carry, batches):
    """Returns a Choice rule's mixing weights `[T, N, K]` while it trains alone.

    Means over the coordinates of each of the N tensors of the optimizee.
    """
    steps, dtype = batches[0].shape[0], carry.start_params_P.dtype
    scale_P, layout = carry.scale_P, task.layout
    shape = (len(layout.sizes), len(rule.pool))

    def body(i, state):
        side, kept = state
        _, grads_P, model_state = task.value_and_grad(
            side.params_P, side.model_state, unroll.take(task, batches, i)
        )
        mixture = rule.mix(
            weights,
            scale_P * grads_P,
            side.params_P / scale_P,
            side.rule_state,
            layout,
            unroll.step_count(carry.step, i, dtype),
        )
        means = [tf.reduce_mean(w, 1) for w in layout.segments(mixture.weights_KP)]
        params_P = side.params_P + scale_P * mixture.delta_P
        side = Side(params_P, mixture.state, model_state)
        return side, kept.write(i, tf.stack(means))

    kept = tf.TensorArray(dtype, steps, element_shape=shape)
    return unroll.count_up(steps, body, (carry.student, kept))[1].stack()
