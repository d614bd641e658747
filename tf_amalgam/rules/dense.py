"""A dense head with one output, on every coordinate at once."""

import keras
from keras import ops

from tf_amalgam.numerics import derive_seed


def dense(values_PF, weights, prefix):
    """Returns `values_PF @ kernel + bias` as a vector `[P]`."""
    return (values_PF @ weights[f"{prefix}/kernel"] + weights[f"{prefix}/bias"])[:, 0]


def init_dense(prefix, inputs, seed):
    """Returns fresh weights `{prefix/kernel: …}`: glorot-uniform kernel, zero bias."""
    glorot = keras.initializers.GlorotUniform(derive_seed(seed, prefix))
    return {
        f"{prefix}/kernel": ops.convert_to_numpy(glorot((inputs, 1))),
        f"{prefix}/bias": ops.convert_to_numpy(ops.zeros(1)),
    }


def init_constant(prefix, inputs, value=0.0):
    """Returns weights of a head that says `value` whatever it sees."""
    return {
        f"{prefix}/kernel": ops.convert_to_numpy(ops.zeros((inputs, 1))),
        f"{prefix}/bias": ops.convert_to_numpy(ops.full((1,), value)),
    }
