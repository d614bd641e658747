"""A rule's step on a large model: a bounded number of coordinates at a time.

A learned rule needs some kilobytes of working memory a coordinate (RNNProp: gates of
2 × 80 numbers, and what becomes of them), far more than its state. Rules whose
coordinates do not depend on one another may take them a chunk at a time. So each part
of their state is stored as `[C, …, S]`: C chunks of S coordinates, the last one padded.
A chunk is one row, which is read and written in place, and stays in the cache. Beside a
CPU, on TensorFlow, neighbouring chunks have variables of their own: a block,
`[R, …, S]` of R rows, which one program of XLA's takes row by row, in the variables'
own memory. Blocks are taken beside one another.
"""

import os
import platform
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
# Larger models have chunks of one of these sizes, up to so many: the first step takes
# longer by a tenth of a second for each, and memory that is given up and taken anew at
# each step is scattered. What is larger than 32 MiB is given back to the system.
CPU_APART = ((CPU_WHOLE, 16), (2**18 + MULTIPLE, 100))
# A recurrent rule takes more coordinates than these in so many blocks, beside one
# another: while one program waits for what is spread over the cores, others work. Their
# number does not depend on the cores, so that a checkpoint fits another machine.
BLOCKS = ((2**13, 2), (2**16, 8))
# A block's row: what is between its operations stays in the nearest cache.
ROW = 2**11 + MULTIPLE
# So many blocks are under way at once, one for each core within these bounds.
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


def under_way():
    """Returns how many blocks are taken beside one another."""
    return min(max(cores(), LEAST_UNDER_WAY), MOST_UNDER_WAY)


def available():
    """Returns whether XLA may be asked; as for Keras, not beside a GPU of Apple's."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    apple = platform.system() == "Darwin"
    return not (apple and tf.config.list_physical_devices("GPU"))


def apart(variable):
    """Returns whether chunks beside a variable may have variables of their own."""
    return available() and on_cpu(variable)


def default_size(variable, coordinates):
    """Returns how many of so many coordinates a chunk has at most, by a device."""
    if not on_cpu(variable):
        return GPU_SIZE
    if coordinates <= CPU_WHOLE:
        return CPU_WHOLE
    for size, most in CPU_APART:
        count, _ = divide(coordinates, size)
        if count <= most and apart(variable):
            return size
    return CPU_SIZE


def arranged(variable, coordinates, chunk_size, recurrent=False):
    """Returns (blocks, rows of a block, coordinates of a row) beside a variable.

    Args:
        chunk_size: at most; None for the default.
        recurrent: whether a recurrent network takes their step.
    """
    fewest, several = BLOCKS[coordinates > BLOCKS[1][0]]
    if recurrent and coordinates > (chunk_size or fewest) and apart(variable):
        most = min(chunk_size or ROW, ROW)
        blocks = min(several, -(-coordinates // most))
        rows = -(-coordinates // (blocks * most))
        size = -(-coordinates // (blocks * rows))
        size = vectors if (vectors := odd_vectors(size)) <= most else size
        return -(-coordinates // (rows * size)), rows, size
    at_most = chunk_size or default_size(variable, coordinates)
    count, size = divide(coordinates, at_most)
    if count > 1 and count <= CPU_APART[-1][1] and apart(variable):
        return count, 1, size
    return 1, count, size


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


def update_in_chunks(step_fn, block_fn, blocks, vectors, layout):
    """Returns delta_P of a whole step; the state is changed in place.

    Args:
        step_fn: `(vectors, state, layout) -> (delta, state)` of some coordinates,
            states being lists of tensors `[…, S]`.
        block_fn: `(vectors, variables, layout) -> delta` of a block of TensorFlow's
            variables `[R, …, S]` (a list of `Held`), which it changes; vectors and
            delta are `[R, S]`, the layout a `Chunk` of rows.
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
        deltas_BRS = ops.stack(_block_by_block(block_fn, blocks, cut, layout))
        deltas_P = ops.reshape(deltas_BRS, (count * size,))
    else:
        loops = {"tensorflow": _tensorflow_loop, "jax": _jax_loop, "torch": _torch_loop}
        deltas_CS = loops[keras.backend.backend()](step_fn, state, cut, layout)
        deltas_P = ops.reshape(deltas_CS, (count * size,))
    return deltas_P[: layout.size]


class Held(NamedTuple):
    """A variable of TensorFlow's, by its handle."""

    handle: Any
    dtype: Any
    shape: Any

    def read(self):
        """Returns its value."""
        import tensorflow as tf

        value = tf.raw_ops.ReadVariableOp(resource=self.handle, dtype=self.dtype)
        return tf.ensure_shape(value, self.shape)

    def assign(self, value):
        """Replaces its value."""
        import tensorflow as tf

        tf.raw_ops.AssignVariableOp(resource=self.handle, value=value)


def flat(part):
    """Returns `[R, …, S]` as `[…, R·S]`."""
    part = ops.moveaxis(part, 0, -2)
    return ops.reshape(part, (*part.shape[:-2], -1))


def in_rows(part, size):
    """Returns `[…, R·S]` as `[R, …, S]`, S being `size`."""
    part = ops.reshape(part, (*part.shape[:-1], -1, size))
    return ops.moveaxis(part, -2, 0)


def _block_by_block(block_fn, blocks, vectors, layout):
    """Returns the deltas `[R, S]` of blocks; for TensorFlow."""
    import tensorflow as tf

    _, rows, size = vectors[0].shape
    kinds = [(v.dtype, v.shape) for v in blocks[0]]
    at_once = under_way()

    def one(i, vectors, handles):
        variables = [Held(h, *kind) for h, kind in zip(handles, kinds, strict=True)]
        part = Chunk(layout, i * rows * size, size, rows)
        delta = block_fn([tf.gather(v, i) for v in vectors], variables, part)
        return tf.ensure_shape(delta, (rows, size)), i + at_once

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
