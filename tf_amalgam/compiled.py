"""A rule's update as one program of XLA's: all that is elementwise is fused.

A learned rule's, and any rule's of a model whose state is in blocks.

Only where TensorFlow runs one operation after the other. On JAX, Keras compiles the
whole training step; under PyTorch operations stay as they are.
"""

import functools

from tf_amalgam.chunks import Chunk, Held, available
from tf_amalgam.rules.activations import as_quotients


def update(rule, weights, grads_P, params_P, state, layout, step):
    """Returns what `rule.update` returns, to rounding."""
    seen = (weights, grads_P, params_P, state)
    if not wanted(rule, weights):
        return rule.update(*seen, layout, step)
    if isinstance(layout, Chunk):
        program = _program(rule, _nameless(layout.whole), layout.size)
        return program(*seen, step, layout.start)
    return _program(rule, _nameless(layout), None)(*seen, step, 0)


def wanted(rule, weights):
    """Returns whether XLA takes a rule's steps, be the state in blocks or not."""
    return bool(weights) and rule.coordinatewise and available()


def _nameless(layout):
    """Returns a layout without its names: models that are alike share programs."""
    return layout._replace(names=("",) * len(layout.shapes))


@functools.lru_cache(maxsize=32)
def _program(rule, layout, size):
    """Returns the compiled update of a layout, or of so many of its coordinates."""
    import tensorflow as tf

    cpu = not tf.config.list_logical_devices("GPU")

    def program(weights, grads_P, params_P, state, step, start):
        part = layout if size is None else Chunk(layout, start, size)
        with as_quotients(wanted=cpu):
            return rule.update(weights, grads_P, params_P, state, part, step)

    return tf.function(program, jit_compile=True, autograph=False)


def in_place(step_fn, rule, given, vectors, variables, part):
    """Returns the delta `[R, S]` of a block, row by row, whose variables are changed.

    XLA gets the variables' own memory, so that nothing is allocated, filled or copied.

    Args:
        step_fn: `(rule, given, vectors, state, layout) -> (delta, state)` of a row.
        given: tensors, by name or position, or None in their place.
        vectors: list of `[R, S]`.
        variables: list of `chunks.Held`, `[R, …, S]`.
        part: `Chunk` of rows.
    """
    kinds = tuple((held.dtype, held.shape) for held in variables)
    cut = (_nameless(part.whole), part.size, part.rows)
    program = _in_place(step_fn, rule, *cut, kinds)
    return program(given, vectors, [held.handle for held in variables], part.start)


@functools.lru_cache(maxsize=32)
def _in_place(step_fn, rule, layout, size, rows, kinds):
    """Returns the compiled step of a block of R rows of S coordinates."""
    import tensorflow as tf

    def program(given, vectors, handles, start):
        variables = [Held(h, *kind) for h, kind in zip(handles, kinds, strict=True)]
        part = Chunk(layout, start, size, rows)
        values = [_bits(held.read()) for held in variables]
        states = [_array(value.dtype, value.shape).unstack(value) for value in values]
        deltas = _array("float32", (rows, size))

        def body(i, states, last, deltas):
            # What the row before became is written here, before anything is read: XLA
            # sees that nothing it overwrites is needed, and fuses a cell's operations,
            # which it does not where their result is written and read in one go.
            states = _written(states, tf.maximum(i - 1, 0), last)
            mine = [
                _number(s.read(i), h) for s, h in zip(states, variables, strict=True)
            ]
            delta, after = step_fn(
                rule, given, [v[i] for v in vectors], mine, part.row(i)
            )
            after = [
                _bits(tf.cast(a, held.dtype))
                for a, held in zip(after, variables, strict=True)
            ]
            return i + 1, states, after, deltas.write(i, delta)

        carry = (tf.constant(0), states, [value[0] for value in values], deltas)
        _, states, last, deltas = tf.while_loop(lambda i, *_: i < rows, body, carry)
        for held, state in zip(
            variables, _written(states, rows - 1, last), strict=True
        ):
            held.assign(_number(state.stack(), held))
        return deltas.stack()

    return tf.function(program, jit_compile=True, autograph=False)


def _bits(value):
    """Returns bfloat16 as whole numbers: XLA would copy all as float32 for each row."""
    import tensorflow as tf

    return tf.bitcast(value, tf.uint16) if value.dtype == tf.bfloat16 else value


def _number(value, held):
    """Returns what `_bits` was given, of a variable."""
    import tensorflow as tf

    return value if value.dtype == held.dtype else tf.bitcast(value, held.dtype)


def _array(dtype, shape):
    import tensorflow as tf

    return tf.TensorArray(dtype, shape[0], element_shape=shape[1:])


def _written(arrays, i, values):
    return [array.write(i, v) for array, v in zip(arrays, values, strict=True)]


def through(function, like, total=()):
    """Returns what `function(i)` finds of each row i, as arrays, and a sum.

    Args:
        function: i -> (list of tensors like rows of `like`, list of addends).
        total: what addends are added to.
    """
    import tensorflow as tf

    rows = like[0].shape[0]
    arrays = [_array(part.dtype, part.shape) for part in like]

    def body(i, total, arrays):
        found, more = function(i)
        total = [a + b for a, b in zip(total, more, strict=True)]
        return i + 1, total, _written(arrays, i, found)

    carry = (tf.constant(0), list(total), arrays)
    _, total, arrays = tf.while_loop(lambda i, *_: i < rows, body, carry)
    return [array.stack() for array in arrays], total
