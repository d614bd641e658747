"""A rule's step on a large model: a bounded number of coordinates at a time.

A learned rule needs some kilobytes of working memory a coordinate (RNNProp: gates of
2 × 80 numbers, and what becomes of them), far more than its state. Rules whose
coordinates do not depend on one another may take them a chunk at a time; each chunk's
state is read and written in place.
"""

from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops


class Chunk(NamedTuple):
    """The layout of some neighbouring coordinates of a larger layout."""

    whole: Any  # Layout
    start: Any  # number of the first coordinate, may be a tensor
    size: int

    def rank_one_hot(self, ranks, dtype):
        """Returns `[size, R]`, as `Layout.rank_one_hot`."""
        table_NR = np.array(
            [[rank == r for r in ranks] for rank in self.whole.ranks], "float32"
        )
        ends_N = ops.convert_to_tensor(np.cumsum(self.whole.sizes), "int32")
        places = ops.cast(self.start, "int32") + ops.arange(self.size, dtype="int32")
        tensors = ops.searchsorted(ends_N, places, side="right")
        return ops.take(ops.convert_to_tensor(table_NR, dtype), tensors, axis=0)


def update_in_chunks(step_fn, state, grads_P, params_P, layout, size, first=0):
    """Returns delta_P of a whole step; the state is changed in place.

    Args:
        step_fn: `(grads, params, state, layout) -> (delta, state)` of some coordinates,
            states being lists of tensors.
        state: list of variables of the backend or of Keras, `[first + P + …, …]`.
        layout: of the coordinates that are updated.
        size: coordinates of a chunk.
        first: row of the state that belongs to the first of them.
    """
    loops = {"tensorflow": _tensorflow_loop, "jax": _jax_loop, "torch": _torch_loop}
    loop = loops[keras.backend.backend()]
    return loop(step_fn, state, grads_P, params_P, layout, size, first)


def _tensorflow_loop(step_fn, state, grads_P, params_P, layout, size, first):
    import tensorflow as tf

    whole = layout.size // size

    def one(start, length):
        # By row numbers: reading or assigning a slice would copy the whole variable,
        # or not be compiled by XLA.
        rows = first + start + tf.range(length)
        delta, after = step_fn(
            tf.slice(grads_P, [start], [length]),
            tf.slice(params_P, [start], [length]),
            [
                tf.raw_ops.ResourceGather(
                    resource=v.handle, indices=rows, dtype=v.dtype
                )
                for v in state
            ],
            Chunk(layout, start, length),
        )
        for v, value in zip(state, after, strict=True):
            tf.raw_ops.ResourceScatterUpdate(
                resource=v.handle, indices=rows, updates=tf.cast(value, v.dtype)
            )
        return delta

    deltas = tf.TensorArray("float32", whole, element_shape=(size,))
    # One at a time, or several would be held at once.
    _, deltas = tf.while_loop(
        lambda i, deltas: i < whole,
        lambda i, deltas: (i + 1, deltas.write(i, one(i * size, size))),
        (tf.constant(0), deltas),
        parallel_iterations=1,
    )
    parts = [deltas.concat()]
    if rest := layout.size - whole * size:
        parts.append(one(tf.constant(whole * size), rest))
    return tf.ensure_shape(tf.concat(parts, 0), (layout.size,))


def _jax_loop(step_fn, state, grads_P, params_P, layout, size, first):
    whole = layout.size // size

    def one(start, length, delta_P, values):
        delta, after = step_fn(
            ops.slice(grads_P, [start], [length]),
            ops.slice(params_P, [start], [length]),
            [
                ops.slice(v, _begin(v, first + start), (length, *v.shape[1:]))
                for v in values
            ],
            Chunk(layout, start, length),
        )
        values = [
            ops.slice_update(old, _begin(old, first + start), ops.cast(new, old.dtype))
            for old, new in zip(values, after, strict=True)
        ]
        return ops.slice_update(delta_P, [start], delta), values

    values = [ops.convert_to_tensor(v) for v in state]
    carry = (ops.zeros((layout.size,), "float32"), values)
    carry = ops.fori_loop(0, whole, lambda i, carry: one(i * size, size, *carry), carry)
    if rest := layout.size - whole * size:
        carry = one(whole * size, rest, *carry)
    for variable, value in zip(state, carry[1], strict=True):
        variable.assign(value)
    return carry[0]


def _begin(value, start):
    return [start] + [0] * (len(value.shape) - 1)


def _torch_loop(step_fn, state, grads_P, params_P, layout, size, first):
    values = [ops.convert_to_tensor(v).detach() for v in state]
    deltas = []
    for start in range(0, layout.size, size):
        stop = min(start + size, layout.size)
        kept = [value[first + start : first + stop] for value in values]
        delta, after = step_fn(
            grads_P[start:stop],
            params_P[start:stop],
            kept,
            Chunk(layout, start, stop - start),
        )
        deltas.append(delta)
        for old, new in zip(kept, after, strict=True):
            old.copy_(new)  # these are views
    return ops.concatenate(deltas)
