"""Fresh weights of a rule's network, as NumPy arrays of Keras' floatx."""

import keras
import numpy as np
from keras import ops

from tf_amalgam.numerics import derive_seed


def glorot(shape, seed, *names):
    """Returns weights drawn from glorot's uniform distribution.

    Args:
        seed: None for zeros, where shapes alone matter and drawing would take time.
        names: of the weights; with the seed they name the numbers.
    """
    return _drawn(keras.initializers.GlorotUniform, shape, seed, names)


def orthogonal(shape, seed, *names):
    """Returns an orthogonal matrix (see `glorot`)."""
    return _drawn(keras.initializers.Orthogonal, shape, seed, names)


def full(shape, value=0.0):
    """Returns weights that all have one value."""
    return np.full(shape, value, keras.config.floatx())


def _drawn(initializer, shape, seed, names):
    if seed is None:
        return full(shape)
    return ops.convert_to_numpy(initializer(seed=derive_seed(seed, *names))(shape))
