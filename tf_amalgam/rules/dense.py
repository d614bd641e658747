"""A dense head with one output, on every coordinate at once."""

from tf_amalgam.rules.fresh import full, glorot


def dense(values_PF, weights, prefix):
    """Returns `values_PF @ kernel + bias` as a vector `[P]`."""
    return (values_PF @ weights[f"{prefix}/kernel"] + weights[f"{prefix}/bias"])[:, 0]


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
