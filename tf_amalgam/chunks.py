"""A rule's step on a large model: a bounded number of coordinates at a time.

A learned rule needs some kilobytes of working memory a coordinate (RNNProp: gates of
2 × 80 numbers, and what becomes of them), far more than its state. Rules whose
coordinates do not depend on one another may take them a chunk at a time. So each part
of their state is stored as `[C, …, S]`: C chunks of S coordinates, the last one padded.
A chunk is one row, which is read and written in place, and stays in the cache. Beside a
CPU, on TensorFlow, each chunk has variables of its own, of which no copies are made:
`[1, …, S]`, or `[R, …, S]` of R smaller rows, for XLA to stay in the nearest cache. The
variables of one chunk, or of all, one for each part, are a block.
"""

import os
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

# Coordinates of a chunk, where they may: whole vectors of the processor.
MULTIPLE = 16
# Coordinates of a chunk, if nobody says: on a CPU all that a step touches stays in the
# cache; a GPU is idle between small kernels (5 M parameters on an H200: 4 and 2 ns a
# parameter under JAX, 69 and 4 under PyTorch).
CPU_SIZE, GPU_SIZE = 2**14 + MULTIPLE, 2**19
# Up to so many are taken at once on a CPU, too, and by each chunk with variables of its
# own: states that are not rows of larger ones need not be copied, a third of a step.
CPU_WHOLE = 2**16 + MULTIPLE
# A recurrent rule takes more than so many of them in two such chunks: one by itself
# does not fill two cores (18,122 and 61,834 coordinates: a sixth of a step). An Adam's
# step is short: in two chunks it takes longer (18,122: 136 and 211 µs).
HALVED = 2**13
# Larger models have chunks of one of these sizes, up to so many: the first step takes
# longer by a tenth of a second for each, and memory that is given up and taken anew at
# each step is scattered. What is larger than 32 MiB is given back to the system.
CPU_APART = ((CPU_WHOLE, 16), (2**18 + MULTIPLE, 100))
# XLA takes one of these, of a recurrent rule, row by row: what is in between stays in
# the nearest cache, and takes no fresh memory (6 million coordinates in chunks of 2^18:
# 663 ns, in rows of 16,400 371, of 4,112 264, of 2,064 240, of 1,040 270). Where it is
# no larger than CPU_SIZE there is little to gain, and filling and copying the rows'
# arrays costs more (two halves of 9,072: 366 ns in rows, 324 as they are).
ROW = 2**11 + MULTIPLE
# Chunks need not wait for one another, but only so many are under way: one for each
# core, as each takes memory for its new state.
LEAST_UNDER_WAY, MOST_UNDER_WAY = 2, 8


class Chunk(NamedTuple):
    """The layout of some neighbouring coordinates of a larger layout."""

    whole: Any  # Layout
    start: Any  # number of the first coordinate, may be a tensor
    size: int
    rows: int | None = None  # of so many coordinates each, `[R, …, S]`; None: `[…, S]`

    def row(self, i):
        """Returns the layout of row i, which may be a tensor."""
        return Chunk(self.whole, self.start + i * self.size, self.size)

    @property
    def flat(self):
        """The layout of the same coordinates, not in rows."""
        return Chunk(self.whole, self.start, (self.rows or 1) * self.size)

    def rank_one_hot(self, ranks, dtype):
        """Returns `[R, size]`, as `Layout.rank_one_hot`."""
        table_RN = np.array(
            [[rank == r for rank in self.whole.ranks] for r in ranks], "float32"
        )
        ends_N = ops.convert_to_tensor(np.cumsum(self.whole.sizes), "int32")
        places = ops.cast(self.start, "int32") + ops.arange(self.size, dtype="int32")
        tensors = ops.searchsorted(ends_N, places, side="right")
        tensors = ops.minimum(tensors, len(self.whole.sizes) - 1)  # where padded
        return ops.take(ops.convert_to_tensor(table_RN, dtype), tensors, axis=1)


def cores():
    """Returns how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def on_cpu(variable):
    """Returns whether a variable of Keras or of the backend is in a CPU's memory."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return "CPU" in str(value.device).upper()


def apart(variable, chunks, state_dtype="float32"):
    """Returns whether each of so many chunks has variables of its own.

    Not where they are cast at each step: that copies them, and takes their memory
    (5 M parameters in bfloat16: 3.6 GB instead of 2.0).
    """
    tensorflow = keras.backend.backend() == "tensorflow"
    few = chunks <= CPU_APART[-1][1] and state_dtype == "float32"
    return tensorflow and on_cpu(variable) and few


def default_size(variable, coordinates, state_dtype="float32", recurrent=False):
    """Returns how many of so many coordinates a chunk has at most, by a device."""
    if not on_cpu(variable):
        return GPU_SIZE
    if coordinates <= CPU_WHOLE:
        halved = recurrent and coordinates > HALVED
        if halved and apart(variable, 2, state_dtype):
            return odd_vectors(-(-coordinates // 2))
        return CPU_WHOLE
    for size, most in CPU_APART:
        count, _ = divide(coordinates, size)
        if count <= most and apart(variable, count, state_dtype):
            return size
    return CPU_SIZE


def arranged(variable, coordinates, chunk_size, state_dtype, recurrent=False):
    """Returns (blocks, rows of a block, coordinates of a row) beside a variable.

    A block is the variables of one chunk, or of all; then each chunk is a row.

    Args:
        chunk_size: at most; None for the default.
        recurrent: whether a recurrent network takes their step.
    """
    at_most = chunk_size or default_size(variable, coordinates, state_dtype, recurrent)
    count, size = divide(coordinates, at_most)
    if count == 1 or not apart(variable, count, state_dtype):
        return 1, count, size
    rows = -(-size // ROW) if recurrent and size > CPU_SIZE else 1
    if rows > 1:
        size = odd_vectors(-(-coordinates // (count * rows)))
    return -(-coordinates // (rows * size)), rows, size


def divide(coordinates, chunk_size):
    """Returns (C, S): how many chunks, and their size, `chunk_size` at most.

    Example:
        >>> divide(100, 2**14), divide(370_506, 2**14), divide(10, 4)
        ((1, 100), (23, 16112), (3, 4))
    """
    if coordinates <= chunk_size:
        return 1, coordinates
    size = -(-coordinates // -(-coordinates // chunk_size))
    size = vectors if (vectors := odd_vectors(size)) <= chunk_size else size
    return -(-coordinates // size), size


def odd_vectors(size):
    """Returns the least number from `size` on that is an odd number of vectors.

    Numbers a power of two apart share places of a cache, so that the rows of a matrix
    would push one another out of it.

    Example:
        >>> odd_vectors(504), odd_vectors(512), odd_vectors(2**14)
        (528, 528, 16400)
    """
    return (-(-size // MULTIPLE) | 1) * MULTIPLE


def joined(blocks, coordinates):
    """Returns a part of a state, NumPy's `[C, …, S]` of each block, as `[…, P]`."""
    rows = [np.moveaxis(block, 0, -2) for block in blocks]
    rows = [row.reshape(*row.shape[:-2], -1) for row in rows]
    return np.concatenate(rows, axis=-1)[..., :coordinates]


def cut(value, count, size):
    """Returns NumPy's `[…, P]` as `[C, …, S]`, padded with zeros."""
    *leading, coordinates = value.shape
    padding = [(0, 0)] * len(leading) + [(0, count * size - coordinates)]
    value = np.pad(value, padding).reshape(*leading, count, size)
    return np.moveaxis(value, -2, 0)


def update_in_chunks(step_fn, blocks, vectors, layout):
    """Returns delta_P of a whole step; the state is changed in place.

    Args:
        step_fn: `(vectors, state, layout) -> (delta, state)` of some coordinates,
            states being lists of tensors `[…, S]`, or `[R, …, S]` where a layout is
            a `Chunk` of rows.
        blocks: list of blocks, or one: lists of variables `[C, …, S]`, of the backend
            or of Keras.
        vectors: list of `[P]`.
        layout: of the P coordinates.
    """
    state = blocks[0]
    if not state:
        return step_fn(vectors, [], layout)[0]
    rows, *_, size = state[0].shape
    count = rows * len(blocks)
    if count == 1:
        values = [ops.convert_to_tensor(v)[0] for v in state]
        delta_P, after = step_fn(vectors, values, layout)
        for variable, value in zip(state, after, strict=True):
            variable.assign(ops.cast(value[None], variable.dtype))
        return delta_P
    padding = [[0, count * size - layout.size]]
    cut = [ops.reshape(ops.pad(v, padding), (count, size)) for v in vectors]
    if len(blocks) > 1:
        shape = (len(blocks), rows, size)
        cut = [ops.reshape(v, shape) for v in cut]
        deltas_BRS = ops.stack(_block_by_block(step_fn, blocks, cut, layout))
        deltas_P = ops.reshape(deltas_BRS, (count * size,))
    else:
        loops = {"tensorflow": _tensorflow_loop, "jax": _jax_loop, "torch": _torch_loop}
        deltas_CS = loops[keras.backend.backend()](step_fn, state, cut, layout)
        deltas_P = ops.reshape(deltas_CS, (count * size,))
    return deltas_P[: layout.size]


def _block_by_block(step_fn, blocks, vectors, layout):
    """Returns the deltas `[R, S]` of blocks of one chunk each; for TensorFlow."""
    import tensorflow as tf

    _, rows, size = vectors[0].shape
    kinds = [(v.dtype, v.shape) for v in blocks[0]]
    at_once = min(max(cores(), LEAST_UNDER_WAY), MOST_UNDER_WAY)

    def one(i, vectors, handles):
        values = [
            tf.ensure_shape(tf.raw_ops.ReadVariableOp(resource=h, dtype=dtype), shape)
            for h, (dtype, shape) in zip(handles, kinds, strict=True)
        ]
        seen = [tf.gather(v, i) for v in vectors]
        part = Chunk(layout, i * rows * size, size, rows)
        if rows == 1:
            seen, values = ([value[0] for value in each] for each in (seen, values))
            part = part.flat
        delta, after = step_fn(seen, values, part)
        for h, value, (dtype, shape) in zip(handles, after, kinds, strict=True):
            value = tf.cast(tf.reshape(value, shape), dtype)
            tf.raw_ops.AssignVariableOp(resource=h, value=value)
        return tf.reshape(delta, (rows, size)), i + at_once

    if tf.inside_function():
        # Traced and optimized once for all; run eagerly, it would be at each step.
        whole = {"_noinline": True}
        one = tf.function(one, autograph=False, experimental_attributes=whole)
    deltas: list = []
    numbers = [tf.constant(i) for i in range(at_once)]
    for i, block in enumerate(blocks):
        # Handles: of several replicas' variables it would take the first block's for
        # all. A chunk gets its number, and may begin, when an earlier one is done. (Not
        # a constant, or TensorFlow would optimize a copy for each.)
        delta, number = one(numbers[i], vectors, [v.handle for v in block])
        deltas.append(delta)
        numbers.append(number)
    return deltas


def _tensorflow_loop(step_fn, state, vectors, layout):
    import tensorflow as tf

    count, size = vectors[0].shape

    def one(i, deltas):
        # By the chunk's number: reading or assigning a slice would copy the whole
        # variable, or not be compiled by XLA.
        values = [
            tf.raw_ops.ResourceGather(resource=v.handle, indices=i, dtype=v.dtype)
            for v in state
        ]
        delta, after = step_fn(
            [tf.gather(v, i) for v in vectors], values, Chunk(layout, i * size, size)
        )
        for v, value in zip(state, after, strict=True):
            tf.raw_ops.ResourceScatterUpdate(
                resource=v.handle, indices=i, updates=tf.cast(value, v.dtype)
            )
        return i + 1, deltas.write(i, delta)

    # One at a time, or several would be held at once.
    _, deltas = tf.while_loop(
        lambda i, deltas: i < count,
        one,
        (tf.constant(0), tf.TensorArray("float32", count, element_shape=(size,))),
        parallel_iterations=1,
    )
    return deltas.stack()


def _jax_loop(step_fn, state, vectors, layout):
    count, size = vectors[0].shape

    def put(whole, i, value):
        place = [i] + [0] * (len(whole.shape) - 1)
        return ops.slice_update(whole, place, ops.cast(value[None], whole.dtype))

    def one(i, carry):
        deltas_CS, values = carry
        delta, after = step_fn(
            [v[i] for v in vectors],
            [v[i] for v in values],
            Chunk(layout, i * size, size),
        )
        values = [put(v, i, new) for v, new in zip(values, after, strict=True)]
        return put(deltas_CS, i, delta), values

    values = [ops.convert_to_tensor(v) for v in state]
    carry = (ops.zeros((count, size), "float32"), values)
    deltas_CS, values = ops.fori_loop(0, count, one, carry)
    for variable, value in zip(state, values, strict=True):
        variable.assign(value)
    return deltas_CS


def _torch_loop(step_fn, state, vectors, layout):
    count, size = vectors[0].shape
    values = [ops.convert_to_tensor(v).detach() for v in state]
    deltas = []
    for i in range(count):
        kept = [value[i] for value in values]
        delta, after = step_fn(
            [v[i] for v in vectors], kept, Chunk(layout, i * size, size)
        )
        deltas.append(delta)
        for old, new in zip(kept, after, strict=True):
            old.copy_(new)  # these are views
    return ops.stack(deltas)
