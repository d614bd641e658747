"""Scale: recurrent units for parameters, tensors and the whole, one above the other."""

import dataclasses
import math
from typing import Any, ClassVar, NamedTuple

from keras import ops

from tf_amalgam.rules.dense import dense, init_constant
from tf_amalgam.rules.gru import gru_step, init_gru
from tf_amalgam.rules.lstm import cell_weights
from tf_amalgam.rules.moments import by_root, logit
from tf_amalgam.rules.rule import Rule, check_decay, check_positive, zeros


class ScaleState(NamedTuple):
    """Momenta at S timescales, three levels of recurrent units, learning rates."""

    m: Any  # [S, P]
    v: Any  # [S, P]
    hidden_parameter: Any  # [H, P]
    hidden_tensor: Any  # [H′, N]
    hidden_global: Any  # [H″, 1]
    log_rate: Any  # [P] η̄, running average of log learning rates
    relative_log_rate: Any  # [P] η against the mean of its tensor


def timescale_moments(grads_P, state, log_beta_1, log_beta_2):
    """Returns (m_SP, v_SP): moments of the gradient that decay by β^(2⁻ˢ), s = 0 … S−1.

    Eq. 1, 2 and 13; β ([1, P] or a number) comes as its logarithm, which keeps 1 − β
    exact near 1.
    """
    timescales = range(state.m.shape[0])
    power_S1 = ops.convert_to_tensor(
        [[0.5**s] for s in timescales], dtype=state.m.dtype
    )

    def ema(average_SP, value_P, log_beta):
        log_decay = power_S1 * log_beta
        return ops.exp(log_decay) * average_SP - ops.expm1(log_decay) * value_P

    return (
        ema(state.m, grads_P, log_beta_1),
        ema(state.v, ops.square(grads_P), log_beta_2),
    )


@dataclasses.dataclass(frozen=True)
class Scale(Rule):
    """Wichrowska et al. 2017, hierarchical, as the released code does it.

    5,070 weights. Equation numbers are those of Wichrowska et al. 2017. Differences,
    all taken from the released code: the direction is not normalized (their D.3), it
    has a linear shortcut from the momenta (their B.1), a constant is added to the
    learning rate, all learning rates start alike, log learning rates are compared
    within a tensor, and gradients are taken where the parameters are (no attention).

    Fresh weights have zero direction heads: such a rule moves nothing.

    Warm-up: momenta decay by `beta_1`, `beta_2`; all else stays as it is.

    Attributes:
        parameter_units, tensor_units, global_units: sizes of the recurrent units.
        timescales: momenta a coordinate has, S.
        initial_learning_rate: exp of all log learning rates at the start.
        learning_rate_offset: added to all learning rates.
        beta_1, beta_2: where the learned decays of the momenta start.
        rate_momentum_logit: where the gate of the log learning rates' average starts.
        shortcut: whether the momenta reach the direction directly.
    """

    name = "scale"
    coordinatewise: ClassVar[bool] = False
    sees_tensors: ClassVar[bool] = True
    recurrent: ClassVar[tuple[str, ...]] = (
        "hidden_parameter",
        "hidden_tensor",
        "hidden_global",
    )
    parameter_units: int = 20
    tensor_units: int = 10
    global_units: int = 10
    timescales: int = 4
    initial_learning_rate: float = 1e-3
    learning_rate_offset: float = 1e-2
    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-10
    rate_momentum_logit: float = 3.2
    shortcut: bool = True

    def __post_init__(self):
        check_positive(
            self,
            "parameter_units",
            "tensor_units",
            "global_units",
            "timescales",
            "initial_learning_rate",
            "learning_rate_offset",
            "beta_1",
            "beta_2",
            "epsilon",
        )
        check_decay(self, "beta_1", "beta_2")

    def init_weights(self, seed):
        units, above = self.parameter_units, self.tensor_units + self.global_units
        weights = {
            **init_gru("parameter", 2 * self.timescales + 1 + above, units, seed),
            **init_gru("tensor", units + self.global_units, self.tensor_units, seed),
            **init_gru("global", self.tensor_units, self.global_units, seed),
            **init_constant("beta_1", units, logit(self.beta_1)),
            **init_constant("beta_2", units, logit(self.beta_2)),
            **init_constant("rate_change", units),
            "rate_momentum": ops.convert_to_numpy(
                ops.full((1,), self.rate_momentum_logit)
            ),
            **init_constant("direction", units),
        }
        if self.shortcut:
            weights |= init_constant("shortcut", self.timescales)
        return weights

    def init_state(self, layout, dtype="float32"):
        count = len(layout.sizes)
        return ScaleState(
            m=zeros(layout, self.timescales, dtype=dtype),
            v=zeros(layout, self.timescales, dtype=dtype),
            hidden_parameter=zeros(layout, self.parameter_units, dtype=dtype),
            hidden_tensor=ops.zeros((self.tensor_units, count), dtype=dtype),
            hidden_global=ops.zeros((self.global_units, 1), dtype=dtype),
            log_rate=ops.full(
                (layout.size,), math.log(self.initial_learning_rate), dtype=dtype
            ),
            relative_log_rate=zeros(layout, dtype=dtype),
        )

    def observe(self, grads_P, state, step):
        m_SP, v_SP = timescale_moments(
            grads_P, state, math.log(self.beta_1), math.log(self.beta_2)
        )
        return state._replace(m=m_SP, v=v_SP)

    def update(self, weights, grads_P, params_P, state, layout, step):
        # Eq. 1, 2, 13: the parameter's unit chose the decays one step before.
        log_beta_1, log_beta_2 = (
            ops.log_sigmoid(dense(state.hidden_parameter, weights, name))[None]
            for name in ("beta_1", "beta_2")
        )
        m_SP, v_SP = timescale_moments(grads_P, state, log_beta_1, log_beta_2)
        # Eq. 3: scaled momenta.
        scaled_SP = by_root(m_SP, v_SP, self.epsilon)
        parameter_HP, tensor_HN, global_H1 = self._recurrent(
            weights, scaled_SP, v_SP, state, layout
        )
        # Eq. 7, 8: log learning rates, and their running average.
        log_rate_P = state.log_rate + dense(parameter_HP, weights, "rate_change")
        gate = ops.sigmoid(weights["rate_momentum"])
        mean_P = layout.spread(layout.segment_mean(log_rate_P))
        # Eq. 5 as in D.3, and the shortcut of B.1.
        direction_P = dense(parameter_HP, weights, "direction")
        if self.shortcut:
            direction_P = direction_P + dense(scaled_SP, weights, "shortcut")
        rate_P = ops.exp(log_rate_P) + self.learning_rate_offset
        return -rate_P * direction_P, ScaleState(
            m=m_SP,
            v=v_SP,
            hidden_parameter=parameter_HP,
            hidden_tensor=tensor_HN,
            hidden_global=global_H1,
            log_rate=gate * state.log_rate + (1.0 - gate) * log_rate_P,
            relative_log_rate=log_rate_P - mean_P,
        )

    def _recurrent(self, weights, scaled_SP, v_SP, state, layout):
        """Returns the hidden states of all three levels (Eq. 10, 11, 12).

        Upwards within the step, downwards one step later.
        """
        # Eq. 4: log size of the gradient at each timescale, against their mean.
        log_v_SP = ops.log(v_SP + self.epsilon)
        relative_SP = log_v_SP - ops.mean(log_v_SP, axis=0, keepdims=True)
        inputs_FP = ops.concatenate(
            [
                scaled_SP,
                relative_SP,
                state.relative_log_rate[None],
                layout.spread(state.hidden_tensor),
                self._everywhere(state, layout.size),
            ]
        )
        parameter_HP = gru_step(
            inputs_FP, state.hidden_parameter, *cell_weights(weights, "parameter")
        )
        inputs_FN = ops.concatenate(
            [
                layout.segment_mean(parameter_HP),
                self._everywhere(state, len(layout.sizes)),
            ]
        )
        tensor_HN = gru_step(
            inputs_FN, state.hidden_tensor, *cell_weights(weights, "tensor")
        )
        global_H1 = gru_step(
            ops.mean(tensor_HN, axis=1, keepdims=True),
            state.hidden_global,
            *cell_weights(weights, "global"),
        )
        return parameter_HP, tensor_HN, global_H1

    def _everywhere(self, state, columns):
        """Returns the global state once for each column."""
        return ops.broadcast_to(state.hidden_global, (self.global_units, columns))
