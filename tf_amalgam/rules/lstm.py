"""One step of an LSTM cell, on every coordinate at once."""

from keras import ops

from tf_amalgam.rules.fresh import full, glorot, orthogonal


def lstm_step(inputs_PF, hidden_PH, cell_PH, kernel, recurrent_kernel, bias):
    """Returns (hidden_PH, cell_PH) after one step.

    tanh activation, sigmoid recurrent activation, gates in the order i, f, c, o
    (Keras' own, so that its weights fit).
    """
    gates = inputs_PF @ kernel + hidden_PH @ recurrent_kernel + bias
    i, f, c, o = ops.split(gates, 4, axis=1)
    cell_PH = ops.sigmoid(f) * cell_PH + ops.sigmoid(i) * ops.tanh(c)
    return ops.sigmoid(o) * ops.tanh(cell_PH), cell_PH


def cell_weights(weights, prefix):
    """Returns kernel, recurrent kernel and bias of the recurrent cell at `prefix`."""
    return [
        weights[f"{prefix}/{part}"] for part in ("kernel", "recurrent_kernel", "bias")
    ]


def init_lstm(prefix, inputs, units, seed):
    """Returns fresh weights `{prefix/kernel: …}` as NumPy arrays.

    glorot-uniform kernel, orthogonal recurrent kernel, zero bias with unit
    forget bias (Keras' defaults).
    """
    bias = full(4 * units)
    bias[units : 2 * units] = 1.0
    recurrent = "recurrent_kernel"
    return {
        f"{prefix}/kernel": glorot((inputs, 4 * units), seed, prefix, "kernel"),
        f"{prefix}/{recurrent}": orthogonal(
            (units, 4 * units), seed, prefix, recurrent
        ),
        f"{prefix}/bias": bias,
    }
