"""Small pieces of arithmetic that must be right at the edges."""

import hashlib

import numpy as np
from keras import ops

# Keeps the logarithm of a loss finite when the loss reaches 0 (method's ε).
LOG_EPSILON = 1e-10
# So far rounding may take a loss that ends at 0 below it.
ROUNDING = 1e-4

# Squared distances below this count as "the same point": see `log_norm`.
SQUARED_FLOOR = 1e-20


def log_norm(difference_P):
    """Returns log‖Δ‖₂, finite with gradient 0 at Δ = 0 (Huang et al. 2022, Eq. 2).

    A student starts every unroll exactly on its teachers, where the plain
    expression is -inf and its gradient NaN. Below ‖Δ‖² = 1e-20 the value is
    log(1e-10) and the gradient 0. Over the last axis: `[…, P]` gives `[…]`.
    """
    squared = ops.sum(ops.square(difference_P), axis=-1)
    far = ops.logical_not(squared <= SQUARED_FLOOR)  # so is NaN, which is kept
    safe = ops.where(far, squared, ops.full_like(squared, SQUARED_FLOOR))
    return 0.5 * ops.log(safe)


def log_loss(loss):
    """Returns log(M + 1e-10), of the meta loss; what rounding takes below 0 is 0.

    A loss that is below 0 has no logarithm: NaN.
    """
    rounded = ops.logical_and(loss < 0.0, loss >= -ROUNDING)
    return ops.log(ops.where(rounded, ops.zeros_like(loss), loss) + LOG_EPSILON)


def log_loss_slope(loss, share):
    """Returns d(share·log_loss)/d loss: share/(M + 1e-10), 0 below 0."""
    slope = share / (loss + LOG_EPSILON)
    return ops.where(loss < 0.0, ops.zeros_like(loss), slope)


def log_half_squares(difference_P, huber_delta=None):
    """Returns log(½ΣΔ² + 1e-10) − log P, the released code's distance.

    With `huber_delta` each ½Δ² is replaced by Huber's function, which is linear
    beyond that size. Finite with gradient 0 at Δ = 0. Over the last axis.
    """
    if huber_delta is None:
        total = 0.5 * ops.sum(ops.square(difference_P), axis=-1)
    else:
        size_P = ops.absolute(difference_P)
        total = ops.sum(
            ops.where(
                size_P <= huber_delta,
                0.5 * ops.square(difference_P),
                huber_delta * (size_P - 0.5 * huber_delta),
            ),
            axis=-1,
        )
    coordinates = float(difference_P.shape[-1])
    return ops.log(total + LOG_EPSILON) - float(np.log(coordinates))


def derive_seed(root: int, *names) -> int:
    """Returns the seed that belongs to `names` under one root seed.

    Every random choice of the project names itself ("warm-up", meta-epoch 3,
    optimizee 1, …), so none depends on the order in which others were made, and
    a resumed run draws what an uninterrupted one draws. 31 bits, as Keras'
    initializers want.

    Example:
        >>> derive_seed(0, "batches", 3) == derive_seed(0, "batches", 3)
        True
        >>> derive_seed(0, "batches", 3) == derive_seed(0, "batches", 4)
        False
    """
    text = "/".join([str(int(root)), *map(str, names)])
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1
