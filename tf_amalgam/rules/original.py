"""The original learned optimizer: a per-parameter LSTM over the gradient."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

from keras import ops

from tf_amalgam.rules.dense import dense, init_dense
from tf_amalgam.rules.lstm import cell_weights, init_lstm, lstm_step
from tf_amalgam.rules.rule import Rule, check_choice, check_positive, zeros

# What the network sees of a gradient:
#   log_sign  two numbers, see `log_sign` (Andrychowicz et al. 2016)
#   raw       the gradient itself (released code)
PREPROCESSINGS = ("log_sign", "raw")


class OriginalState(NamedTuple):
    """State of two LSTM layers."""

    hidden_0: Any  # [H, P]
    cell_0: Any  # [H, P]
    hidden_1: Any  # [H, P]
    cell_1: Any  # [H, P]


def log_sign(grads_P, p):
    """Returns `[2, P]`: size and sign of gradients of very different sizes.

    (log|g|/p, sign g) where |g| ≥ e⁻ᵖ, else (−1, eᵖ·g) (Andrychowicz et al. 2016,
    Appendix A); continuous, and both parts bounded below by −1.
    """
    size_P = ops.maximum(ops.absolute(grads_P), math.exp(-p))
    sign_P = ops.clip(math.exp(p) * grads_P, -1.0, 1.0)
    return ops.stack([ops.log(size_P) / p, sign_P])


@dataclasses.dataclass(frozen=True)
class Original(Rule):
    """Andrychowicz et al. 2016: LSTM(H) → LSTM(H) → dense(1) → δ = −α·y.

    5,141 weights at H = 20 with log-and-sign inputs (the paper of 2016), 5,061 with
    the raw gradient (released code). α = .1 in both.
    """

    name = "original"
    recurrent: ClassVar[tuple[str, ...]] = ("hidden_0", "cell_0", "hidden_1", "cell_1")
    units: int = 20
    alpha: float = 0.1
    preprocessing: str = "log_sign"
    p: float = 10.0

    def __post_init__(self):
        check_positive(self, "units", "alpha", "p")
        check_choice(self, "preprocessing", PREPROCESSINGS)

    def init_weights(self, seed):
        seen = 2 if self.preprocessing == "log_sign" else 1
        return {
            **init_lstm("lstm_0", seen, self.units, seed),
            **init_lstm("lstm_1", self.units, self.units, seed),
            **init_dense("head", self.units, seed),
        }

    def init_state(self, layout, dtype="float32"):
        return OriginalState(
            *(zeros(layout, self.units, dtype=dtype) for _ in range(4))
        )

    def update(self, weights, grads_P, params_P, state, layout, step):
        if self.preprocessing == "log_sign":
            inputs_FP = log_sign(grads_P, self.p)
        else:
            inputs_FP = grads_P[None]
        hidden_0, cell_0 = lstm_step(
            inputs_FP, state.hidden_0, state.cell_0, *cell_weights(weights, "lstm_0")
        )
        hidden_1, cell_1 = lstm_step(
            hidden_0, state.hidden_1, state.cell_1, *cell_weights(weights, "lstm_1")
        )
        delta_P = -self.alpha * dense(hidden_1, weights, "head")
        return delta_P, OriginalState(hidden_0, cell_0, hidden_1, cell_1)
