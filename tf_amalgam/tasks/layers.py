"""Convolutions whose second derivative is cheap: same functions, other order of work.

A meta-gradient differentiates the optimizee's own gradient; TensorFlow's second
derivative of max pooling would cost as much as all of a small net's convolutions.
"""

import keras
import tensorflow as tf
from keras import layers, ops


@keras.saving.register_keras_serializable("tf_amalgam")
class ConvBlock(layers.Layer):
    """ReLU(max_pool(x ∗ kernel + bias)), valid padding, in the cheapest order.

    Bias and ReLU are monotone, so they follow the pool, on fewer numbers, with the
    same result. Kernels have the shape and the initial values of `keras.layers.Conv2D`.

    Args:
        filters: output channels.
        size: side of the square kernel.
        pool: side of the pooling windows; 1 leaves them out.
        stride: steps of the kernel over the image.
    """

    def __init__(self, filters, size, pool=1, stride=1, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.size = size
        self.pool = pool
        self.stride = stride
        self._initializer = keras.initializers.GlorotUniform()  # draws its seed now

    def build(self, shape):
        self.kernel = self.add_weight(
            shape=(self.size, self.size, shape[-1], self.filters),
            initializer=self._initializer,
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=(self.filters,), initializer="zeros", name="bias"
        )

    def call(self, x):
        y = ops.conv(x, self.kernel, self.stride, "valid", data_format="channels_last")
        if self.pool > 1:
            y = max_pool(y, self.pool)
        return ops.relu(y + self.bias)

    def compute_output_shape(self, shape):
        batch, *sides, _ = shape
        return (batch, *map(self._pooled, sides), self.filters)

    def _pooled(self, side):
        """Returns what is left of an image's side after the kernel and its pool."""
        return ((side - self.size) // self.stride + 1) // self.pool

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "size": self.size,
            "pool": self.pool,
            "stride": self.stride,
        }


def max_pool(x, size):
    """Returns the maxima of windows `[size, size]`, valid padding.

    Differentiable twice, like `tf.nn.max_pool2d`, whose second derivative is an
    operation 10 times slower than the first: here it is the mean of what lies
    under the windows' (first) maxima.
    """
    window = {
        "ksize": (1, size, size, 1),
        "strides": (1, size, size, 1),
        "padding": "VALID",
    }

    @tf.custom_gradient
    def spread(x, y, dy):
        def at_maxima(values):
            return tf.raw_ops.MaxPoolGrad(
                orig_input=x, orig_output=y, grad=values, **window
            )

        def backward(adjoint):
            under = adjoint * at_maxima(tf.ones_like(dy))
            gathered = size**2 * tf.raw_ops.AvgPool(value=under, **window)
            return None, None, gathered

        return at_maxima(dy), backward

    @tf.custom_gradient
    def maxima(x):
        y = tf.raw_ops.MaxPool(input=x, **window)
        return y, lambda dy: spread(x, y, dy)

    return maxima(x)
