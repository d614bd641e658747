"""RNNProp, the student: a per-parameter LSTM over Adam's and RMSProp's updates."""

import dataclasses
from typing import Any, NamedTuple

import keras
from keras import ops

from tf_amalgam.numerics import derive_seed
from tf_amalgam.rules.lstm import init_lstm, layer_weights, lstm_step
from tf_amalgam.rules.moments import (
    Moments,
    by_root,
    check_normalizer,
    hat,
    update_moments,
)
from tf_amalgam.rules.rule import Rule, check_decay, check_positive, zeros


class RNNPropState(NamedTuple):
    """Moments of the gradient and the state of two LSTM layers."""

    m: Any  # [P]
    v: Any  # [P]
    hidden_0: Any  # [P, H]
    cell_0: Any  # [P, H]
    hidden_1: Any  # [P, H]
    cell_1: Any  # [P, H]


@dataclasses.dataclass(frozen=True)
class RNNProp(Rule):
    """Lv et al. 2017, as in Huang et al. 2022, C.1.1; 5,141 weights at H = 20.

    Inputs per coordinate (m̂/√v̂, g/√v̂), in that order → LSTM(H) → LSTM(H) →
    dense(1) → δ = −α·tanh(y).
    """

    name = "rnnprop"
    units: int = 20
    alpha: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-10
    normalizer: str = "bias_corrected"

    def __post_init__(self):
        check_positive(self, "units", "alpha", "epsilon")
        check_decay(self, "beta_1", "beta_2")
        check_normalizer(self)

    def init_weights(self, seed):
        glorot = keras.initializers.GlorotUniform(derive_seed(seed, "head"))
        return {
            **init_lstm("lstm_0", 2, self.units, seed),
            **init_lstm("lstm_1", self.units, self.units, seed),
            "head/kernel": ops.convert_to_numpy(glorot((self.units, 1))),
            "head/bias": ops.convert_to_numpy(ops.zeros(1)),
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
        inputs_PF = self._inputs(grads_P, moments, step)
        hidden_0, cell_0 = lstm_step(
            inputs_PF, state.hidden_0, state.cell_0, *layer_weights(weights, "lstm_0")
        )
        hidden_1, cell_1 = lstm_step(
            hidden_0, state.hidden_1, state.cell_1, *layer_weights(weights, "lstm_1")
        )
        y_P1 = hidden_1 @ weights["head/kernel"] + weights["head/bias"]
        delta_P = -self.alpha * ops.tanh(y_P1[:, 0])
        state = RNNPropState(moments.m, moments.v, hidden_0, cell_0, hidden_1, cell_1)
        return delta_P, state

    def _inputs(self, grads_P, moments: Moments, step):
        m_hat = hat(moments.m, self.beta_1, step, self.normalizer)
        v_hat = hat(moments.v, self.beta_2, step, self.normalizer)
        return ops.stack(
            [
                by_root(m_hat, v_hat, self.epsilon),
                by_root(grads_P, v_hat, self.epsilon),
            ],
            axis=1,
        )
