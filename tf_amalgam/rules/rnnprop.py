"""RNNProp, the student: a per-parameter LSTM over Adam's and RMSProp's updates."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

from keras import ops

from tf_amalgam.rules.dense import dense, init_constant, init_dense
from tf_amalgam.rules.lstm import cell_weights, init_lstm, lstm_step
from tf_amalgam.rules.moments import (
    Moments,
    by_root,
    check_normalizer,
    hat,
    update_moments,
)
from tf_amalgam.rules.rule import (
    Rule,
    check_choice,
    check_decay,
    check_positive,
    zeros,
)

# What the network sees:
#   basic     (m̂/√v̂, g/√v̂)      Lv et al. 2017
#   extended  (g, m̂/√v̂, g/√v̂), also beside the outputs of both LSTMs; zero head
#             (released code, "RNNPropExtended", at α = .001)
INPUTS = ("basic", "extended")

# What its output y does:
#   tanh        δ = −α·tanh(y)                     Lv et al. 2017
#   adam_lr     δ = −α·exp(tanh(y))·m̂/√v̂           released code, "AdamLR"
#   rmsprop_lr  δ = −α·exp(tanh(y))·g/√v̂           released code, "RMSPropLR"
OUTPUTS = ("tanh", "adam_lr", "rmsprop_lr")


class RNNPropState(NamedTuple):
    """Moments of the gradient and the state of two LSTM layers."""

    m: Any  # [P]
    v: Any  # [P]
    hidden_0: Any  # [H, P]
    cell_0: Any  # [H, P]
    hidden_1: Any  # [H, P]
    cell_1: Any  # [H, P]


@dataclasses.dataclass(frozen=True)
class RNNProp(Rule):
    """Lv et al. 2017, as in Huang et al. 2022, C.1.1; 5,141 weights at H = 20.

    Inputs per coordinate (m̂/√v̂, g/√v̂), in that order → LSTM(H) → LSTM(H) →
    dense(1) → δ = −α·tanh(y). `inputs` and `output` name variants of the released
    code (see `INPUTS`, `OUTPUTS`); extended inputs make it 5,464 weights.
    """

    name = "rnnprop"
    recurrent: ClassVar[tuple[str, ...]] = ("hidden_0", "cell_0", "hidden_1", "cell_1")
    units: int = 20
    alpha: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-10
    normalizer: str = "bias_corrected"
    inputs: str = "basic"
    output: str = "tanh"

    def __post_init__(self):
        check_positive(self, "units", "alpha", "epsilon")
        check_decay(self, "beta_1", "beta_2")
        check_normalizer(self)
        check_choice(self, "inputs", INPUTS)
        check_choice(self, "output", OUTPUTS)

    def init_weights(self, seed):
        if self.inputs == "basic":
            seen, beside, head = 2, 0, init_dense("head", self.units, seed)
        else:
            seen, beside, head = 3, 3, init_constant("head", self.units + 3)
        return {
            **init_lstm("lstm_0", seen, self.units, seed),
            **init_lstm("lstm_1", self.units + beside, self.units, seed),
            **head,
        }

    def init_state(self, layout, dtype="float32"):
        hidden = [zeros(layout, self.units, dtype=dtype) for _ in range(4)]
        return RNNPropState(
            zeros(layout, dtype=dtype), zeros(layout, dtype=dtype), *hidden
        )

    def observe(self, grads_P, state, step):
        moments = update_moments(grads_P, state, self.beta_1, self.beta_2)
        return state._replace(m=moments.m, v=moments.v)

    def update(self, weights, grads_P, params_P, state, layout, step):
        moments = update_moments(grads_P, state, self.beta_1, self.beta_2)
        m_tilde, g_tilde = self._normalized(grads_P, moments, step)
        inputs = [m_tilde, g_tilde]
        if self.inputs == "extended":
            inputs = [grads_P, *inputs]
        inputs_FP = ops.stack(inputs)
        hidden_0, cell_0 = lstm_step(
            inputs_FP, state.hidden_0, state.cell_0, *cell_weights(weights, "lstm_0")
        )
        hidden_1, cell_1 = lstm_step(
            self._beside(hidden_0, inputs_FP),
            state.hidden_1,
            state.cell_1,
            *cell_weights(weights, "lstm_1"),
        )
        y_P = ops.tanh(dense(self._beside(hidden_1, inputs_FP), weights, "head"))
        state = RNNPropState(moments.m, moments.v, hidden_0, cell_0, hidden_1, cell_1)
        if self.output == "tanh":
            return -self.alpha * y_P, state
        direction_P = m_tilde if self.output == "adam_lr" else g_tilde
        return -self.alpha * ops.exp(y_P) * direction_P, state

    def _beside(self, hidden_HP, inputs_FP):
        """Returns a layer's output, with the shortcut of extended inputs."""
        if self.inputs == "basic":
            return hidden_HP
        return ops.concatenate([hidden_HP, inputs_FP])

    def _normalized(self, grads_P, moments: Moments, step):
        """Returns (m̂/√v̂, g/√v̂)."""
        m_hat = hat(moments.m, self.beta_1, step, self.normalizer)
        v_hat = hat(moments.v, self.beta_2, step, self.normalizer)
        return (
            by_root(m_hat, v_hat, self.epsilon),
            by_root(grads_P, v_hat, self.epsilon),
        )
