"""A learned rule's update as one program of XLA's: all that is elementwise is fused.

Only where TensorFlow runs one operation after the other. On JAX, Keras compiles the
whole training step; under PyTorch operations stay as they are.
"""

import functools
import platform

import keras

from tf_amalgam.chunks import Chunk


def update(rule, weights, grads_P, params_P, state, layout, step):
    """Returns what `rule.update` returns, to rounding."""
    seen = (grads_P, params_P, state)
    if not weights or not rule.coordinatewise or not available():
        return rule.update(weights, *seen, layout, step)
    if isinstance(layout, Chunk):
        program = _program(rule, layout.whole, layout.size)
        return program(weights, *seen, step, layout.start)
    return _program(rule, layout, None)(weights, *seen, step, 0)


@functools.lru_cache(maxsize=32)
def _program(rule, layout, size):
    """Returns the compiled update of a layout, or of so many of its coordinates."""
    import tensorflow as tf

    def program(weights, grads_P, params_P, state, step, start):
        part = layout if size is None else Chunk(layout, start, size)
        return rule.update(weights, grads_P, params_P, state, part, step)

    return tf.function(program, jit_compile=True, autograph=False)


def available():
    """Returns whether XLA may be asked; as for Keras, not beside a GPU of Apple's."""
    if keras.backend.backend() != "tensorflow":
        return False
    import tensorflow as tf

    apple = platform.system() == "Darwin"
    return not (apple and tf.config.list_physical_devices("GPU"))
