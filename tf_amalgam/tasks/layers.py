"""Convolutions whose second derivative is cheap: same functions, other order of work.

A meta-gradient differentiates the optimizee's own gradient, which costs most in two
places of a small convolutional net: the second derivative of max pooling, and the
first convolution, whose few channels use the machine badly.
"""

import keras
import tensorflow as tf
from keras import layers, ops


@keras.saving.register_keras_serializable("tf_amalgam")
class ImagePatches(layers.Layer):
    """Square patches of images: `[B, H, W, C]` -> `[B, H−k+1, W−k+1, k·k·C]`.

    It has nothing to train, so a `Task` computes it once for a minibatch and gives
    it to the student, every teacher and the way back.
    """

    def __init__(self, size, **kwargs):
        super().__init__(**kwargs)
        self.size = size

    def call(self, images):
        height = images.shape[1] - self.size + 1
        width = images.shape[2] - self.size + 1
        steps = range(self.size)
        return ops.concatenate(
            [images[:, i : i + height, j : j + width] for i in steps for j in steps],
            axis=-1,
        )

    def compute_output_shape(self, shape):
        batch, height, width, channels = shape
        less, count = self.size - 1, self.size**2
        return (batch, height - less, width - less, count * channels)

    def get_config(self):
        return {**super().get_config(), "size": self.size}


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
        of_patches: the input is `ImagePatches(size)` of the images.
    """

    def __init__(self, filters, size, pool=1, stride=1, of_patches=False, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.size = size
        self.pool = pool
        self.stride = stride
        self.of_patches = of_patches
        self._initializer = keras.initializers.GlorotUniform()  # draws its seed now

    def build(self, shape):
        channels = shape[-1] // (self.size**2 if self.of_patches else 1)
        self.kernel = self.add_weight(
            shape=(self.size, self.size, channels, self.filters),
            initializer=self._initializer,
            name="kernel",
        )
        self.bias = self.add_weight(
            shape=(self.filters,), initializer="zeros", name="bias"
        )

    def call(self, x):
        if self.of_patches:
            if self.stride > 1:
                x = x[:, :: self.stride, :: self.stride]
            flat = ops.reshape(x, (-1, x.shape[-1]))
            y = ops.matmul(flat, ops.reshape(self.kernel, (-1, self.filters)))
            y = ops.reshape(y, (-1, *x.shape[1:3], self.filters))
        else:
            y = ops.conv(x, self.kernel, strides=self.stride, padding="valid")
        if self.pool > 1:
            y = max_pool(y, self.pool)
        return ops.relu(y + self.bias)

    def compute_output_shape(self, shape):
        less = 0 if self.of_patches else self.size - 1
        height, width = (
            ((side - less - 1) // self.stride + 1) // self.pool for side in shape[1:3]
        )
        return (shape[0], height, width, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "size": self.size,
            "pool": self.pool,
            "stride": self.stride,
            "of_patches": self.of_patches,
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
    def pooled(x):
        y = tf.raw_ops.MaxPool(input=x, **window)
        return y, lambda dy: spread(x, y, dy)

    return pooled(x)
