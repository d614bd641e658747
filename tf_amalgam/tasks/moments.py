"""Mean and variance whose second derivative is right, as a meta-gradient needs it."""

import threading

import tensorflow as tf


def moments(x, axes, shift=None, keepdims=False, name=None):
    """Returns mean and variance, as `tf.nn.moments` does.

    That one holds the mean fixed inside the variance (`stop_gradient`). The first
    derivative is still right, since Σ(x − mean) = 0; the second is not, and with it
    every second-order meta-gradient through `BatchNormalization`,
    `LayerNormalization` or `GroupNormalization` (found by finite differences;
    TensorFlow 2.21, Keras 3.15).
    """
    mean = tf.reduce_mean(x, axes, keepdims=True)
    variance = tf.reduce_mean(tf.math.squared_difference(x, mean), axes, keepdims=True)
    if keepdims:
        return mean, variance
    return tf.squeeze(mean, axes), tf.squeeze(variance, axes)


class _Exact:
    """Puts `moments` in the place of `tf.nn.moments`, and takes it away at the end.

    Keras' layers offer no other way in. Replicas may be inside together, from several
    threads, so the first puts it there and the last takes it away.
    """

    def __init__(self):
        self._lock = threading.Lock()
        self._inside = 0
        self._kept = tf.nn.moments

    def __enter__(self):
        with self._lock:
            if self._inside == 0:
                self._kept, tf.nn.moments = tf.nn.moments, moments
            self._inside += 1

    def __exit__(self, *_):
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                tf.nn.moments = self._kept


exact_moments = _Exact()
