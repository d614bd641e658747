"""A learned rule's update as one program of XLA's: all that is elementwise is fused.

Only where TensorFlow runs one operation after the other. On JAX, Keras compiles the
whole training step; under PyTorch operations stay as they are.
"""

import functools
import platform

import keras
from keras import ops, tree

from tf_amalgam.chunks import Chunk
from tf_amalgam.rules.activations import as_quotients


def update(rule, weights, grads_P, params_P, state, layout, step):
    """Returns what `rule.update` returns, to rounding.

    All are `[R, …, S]` where the layout is a `Chunk` of rows.
    """
    seen = (grads_P, params_P, state)
    if not weights or not rule.coordinatewise or not available():
        if getattr(layout, "rows", None) is None:
            return rule.update(weights, *seen, layout, step)
        seen = tree.map_structure(flat, seen)
        found = rule.update(weights, *seen, layout.flat, step)
        return tree.map_structure(lambda part: in_rows(part, layout.size), found)
    if isinstance(layout, Chunk):
        program = _program(rule, layout.whole, layout.size, layout.rows)
        return program(weights, *seen, step, layout.start)
    return _program(rule, layout, None, None)(weights, *seen, step, 0)


@functools.lru_cache(maxsize=32)
def _program(rule, layout, size, rows):
    """Returns the compiled update of a layout, of so many coordinates, or of rows."""
    import tensorflow as tf

    cpu = not tf.config.list_logical_devices("GPU")

    def taken(*arguments):
        with as_quotients(wanted=cpu):
            return rule.update(*arguments)

    def program(weights, grads_P, params_P, state, step, start):
        part = layout if size is None else Chunk(layout, start, size, rows)
        if rows is None:
            return taken(weights, grads_P, params_P, state, part, step)
        everything = [grads_P, params_P, *tf.nest.flatten(state)]

        def one(i):
            grads_S, params_S, *values = (value[i] for value in everything)
            mine = tf.nest.pack_sequence_as(state, values)
            found = taken(weights, grads_S, params_S, mine, part.row(i), step)
            return tf.nest.flatten(found), []

        found, _ = through(one, everything[1:])
        return found[0], tf.nest.pack_sequence_as(state, found[1:])

    return tf.function(program, jit_compile=True, autograph=False)


def through(function, like, total=()):
    """Returns what `function(i)` finds of each row i, as arrays, and a sum.

    Args:
        function: i -> (list of tensors like rows of `like`, list of addends).
        total: what addends are added to.
    """
    import tensorflow as tf

    rows = like[0].shape[0]
    arrays = [
        tf.TensorArray(part.dtype, rows, element_shape=part.shape[1:]) for part in like
    ]

    def body(i, total, arrays):
        found, more = function(i)
        total = [a + b for a, b in zip(total, more, strict=True)]
        arrays = [a.write(i, v) for a, v in zip(arrays, found, strict=True)]
        return i + 1, total, arrays

    carry = (tf.constant(0), list(total), arrays)
    _, total, arrays = tf.while_loop(lambda i, *_: i < rows, body, carry)
    return [array.stack() for array in arrays], total


def flat(part):
    """Returns `[R, …, S]` as `[…, R·S]`."""
    part = ops.moveaxis(part, 0, -2)
    return ops.reshape(part, (*part.shape[:-2], -1))


def in_rows(part, size):
    """Returns `[…, R·S]` as `[R, …, S]`, S being `size`."""
    part = ops.reshape(part, (*part.shape[:-1], -1, size))
    return ops.moveaxis(part, -2, 0)


def available():
    """Returns whether XLA may be asked; as for Keras, not beside a GPU of Apple's."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    apple = platform.system() == "Darwin"
    return not (apple and tf.config.list_physical_devices("GPU"))
