"""Convolutions whose second derivative is cheap: same functions, other order of work.

A meta-gradient differentiates the optimizee's own gradient, which costs most in two
places of a small convolutional net: the second derivative of max pooling, and the
first convolution, whose few channels use the machine badly.
"""

import functools
import itertools

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops


@keras.saving.register_keras_serializable("tf_amalgam")
class ImagePatches(layers.Layer):
    """Square patches of images: `[B, H, W, C]` -> `[B, pool², H', W', size²·C]`.

    H' x W' windows of pool x pool places of the kernel; places of a window come
    first, so that the pool is a maximum of whole tensors. It has nothing to train, so
    a `Task` computes it once for a minibatch and gives it to the student, every
    teacher and the way back.

    Args:
        size, pool, stride: of the `ConvBlock` that reads the patches.
    """

    def __init__(self, size, pool, stride, **kwargs):
        super().__init__(**kwargs)
        self.size = size
        self.pool = pool
        self.stride = stride

    def build(self, shape):
        """Makes a kernel of which each output is one number of the image."""
        size, stride, channels = self.size, self.stride, shape[-1]
        places, offsets = range(self.pool), range(size)
        numbers = [
            (a * stride + i, b * stride + j, c)
            for a, b, i, j in itertools.product(places, places, offsets, offsets)
            for c in range(channels)
        ]
        side = (self.pool - 1) * stride + size
        self._picks = np.zeros((side, side, channels, len(numbers)), "float32")
        for n, at in enumerate(numbers):
            self._picks[(*at, n)] = 1.0

    def call(self, images):
        # A convolution is faster than slices: their rows are short.
        images = ops.cast(images, self.compute_dtype)
        picks = ops.cast(self._picks, self.compute_dtype)
        y = convolution(images, picks, self.pool * self.stride)
        _, places, height, width, numbers = self.compute_output_shape(images.shape)
        y = ops.reshape(y, (-1, height * width, places, numbers))
        y = ops.transpose(y, (0, 2, 1, 3))
        return ops.reshape(y, (-1, places, height, width, numbers))

    def compute_output_shape(self, shape):
        batch, height, width, channels = shape
        sides = (pooled(side, self) for side in (height, width))
        return (batch, self.pool**2, *sides, self.size**2 * channels)

    def get_config(self):
        shape = {"size": self.size, "pool": self.pool, "stride": self.stride}
        return {**super().get_config(), **shape}


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
        of_patches: the input is `ImagePatches(size, pool, stride)` of the images.
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
        if self.of_patches and (len(shape) != 5 or shape[1] != self.pool**2):
            raise ValueError(
                f"A ConvBlock of patches needs ImagePatches({self.size}, {self.pool}, "
                f"{self.stride}) before it, {self.pool**2} places a window; received "
                f"shape {tuple(shape)}. A model saved by an earlier version has to be "
                "built anew; its weights fit."
            )
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
        y = self._of_patches(x) if self.of_patches else self._of_images(x)
        return ops.relu(y + self.bias)

    def _of_patches(self, x):
        _, places, height, width, numbers = x.shape
        flat = ops.reshape(x, (-1, numbers))
        y = ops.matmul(flat, ops.reshape(self.kernel, (-1, self.filters)))
        y = ops.reshape(y, (-1, places, height * width * self.filters))
        # Like MaxPool's gradient, that of a maximum goes to the first of equals.
        y = functools.reduce(ops.maximum, ops.unstack(y, places, axis=1))
        return ops.reshape(y, (-1, height, width, self.filters))

    def _of_images(self, x):
        y = convolution(x, self.kernel, self.stride)
        return max_pool(y, self.pool) if self.pool > 1 else y

    def compute_output_shape(self, shape):
        batch, *sides, _ = shape
        if self.of_patches:
            return (batch, *sides[1:], self.filters)
        return (batch, *(pooled(side, self) for side in sides), self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "size": self.size,
            "pool": self.pool,
            "stride": self.stride,
            "of_patches": self.of_patches,
        }


def convolution(images, kernel, stride):
    """Returns images `[B, H, W, C]` ∗ kernel, valid padding."""
    return ops.conv(images, kernel, stride, "valid", data_format="channels_last")


def pooled(side, layer):
    """Returns what is left of an image's side after the kernel and its pool."""
    return ((side - layer.size) // layer.stride + 1) // layer.pool


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
