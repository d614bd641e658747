"""Momentum as an average of gradients."""

import dataclasses

from tf_amalgam.rules.moments import FirstMoment, check_normalizer, ema, hat
from tf_amalgam.rules.rule import AnalyticRule, check_decay, zeros


@dataclasses.dataclass(frozen=True)
class Momentum(AnalyticRule):
    """δ = −lr·m̂ (Huang et al. 2022, Table 3).

    m̂ is an *average* of gradients, not the sum of Polyak's heavy ball: Keras'
    `SGD(learning_rate, momentum=0.9)` moves up to 1/(1−β₁) = 10 times as far.
    """

    name = "momentum"
    beta_1: float = 0.9
    normalizer: str = "bias_corrected"

    def __post_init__(self):
        super().__post_init__()
        check_decay(self, "beta_1")
        check_normalizer(self)

    def init_state(self, layout, dtype="float32"):
        return FirstMoment(zeros(layout, dtype=dtype))

    def observe(self, grads_P, state, step):
        return FirstMoment(ema(state.m, grads_P, self.beta_1))

    def update(self, weights, grads_P, params_P, state, layout, step):
        state = self.observe(grads_P, state, step)
        m_hat = hat(state.m, self.beta_1, step, self.normalizer)
        return -self.learning_rate * m_hat, state
