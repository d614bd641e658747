"""One step of a gated recurrent unit, on every coordinate (or tensor) at once."""

from keras import ops

from tf_amalgam.rules.dense import affine
from tf_amalgam.rules.fresh import full, glorot, orthogonal


def gru_step(inputs_FP, hidden_HP, kernel, recurrent_kernel, bias):
    """Returns hidden_HP after one step (Cho et al. 2014).

    tanh activation, sigmoid recurrent activation, gates in the order z, r, h; the
    reset gate acts after the recurrent product, with a bias `[2, 3H]` of its own
    (Keras' default, so that its weights fit).
    """
    x_z, x_r, x_h = ops.split(affine(inputs_FP, kernel, bias[0]), 3)
    h_z, h_r, h_h = ops.split(affine(hidden_HP, recurrent_kernel, bias[1]), 3)
    z, r = ops.sigmoid(x_z + h_z), ops.sigmoid(x_r + h_r)
    return z * hidden_HP + (1.0 - z) * ops.tanh(x_h + r * h_h)


def init_gru(prefix, inputs, units, seed):
    """Returns fresh weights `{prefix/kernel: …}` as NumPy arrays.

    glorot-uniform kernel, orthogonal recurrent kernel, zero biases (Keras' defaults).
    """
    recurrent = "recurrent_kernel"
    return {
        f"{prefix}/kernel": glorot((inputs, 3 * units), seed, prefix, "kernel"),
        f"{prefix}/{recurrent}": orthogonal(
            (units, 3 * units), seed, prefix, recurrent
        ),
        f"{prefix}/bias": full((2, 3 * units)),
    }
