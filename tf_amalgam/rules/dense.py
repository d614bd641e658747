"""Dense layers, on every coordinate at once."""

from keras import ops

from tf_amalgam.rules.fresh import full, glorot


def affine(values_FP, kernel, bias):
    """Returns `[units, P]`: kernelᵀ · values + bias, the kernel being `[F, units]`."""
    return ops.transpose(kernel) @ values_FP + ops.expand_dims(bias, 1)


def dense(values_FP, weights, prefix):
    """Returns the vector `[P]` that a layer with one output makes of the values."""
    return affine(values_FP, weights[f"{prefix}/kernel"], weights[f"{prefix}/bias"])[0]


def init_dense(prefix, inputs, seed):
    """Returns fresh weights `{prefix/kernel: …}`: glorot-uniform kernel, zero bias."""
    return {
        f"{prefix}/kernel": glorot((inputs, 1), seed, prefix),
        f"{prefix}/bias": full(1),
    }


def init_constant(prefix, inputs, value=0.0):
    """Returns weights of a head that says `value` whatever it sees."""
    return {
        f"{prefix}/kernel": full((inputs, 1)),
        f"{prefix}/bias": full(1, value),
    }
