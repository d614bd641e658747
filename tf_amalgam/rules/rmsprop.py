"""RMSProp."""

import dataclasses

from keras import ops

from tf_amalgam.rules.moments import SecondMoment, by_root, check_normalizer, ema, hat
from tf_amalgam.rules.rule import AnalyticRule, check_decay, check_positive, zeros


@dataclasses.dataclass(frozen=True)
class RMSProp(AnalyticRule):
    """δ = −lr·g/√v̂ (Tieleman & Hinton 2012; Huang et al. 2022, Table 3).

    The paper uses β₂ = .999, bias-corrected; the released code .9 and no
    correction (`beta_2=0.9, normalizer="none"`).
    """

    name = "rmsprop"
    beta_2: float = 0.999
    epsilon: float = 1e-10
    normalizer: str = "bias_corrected"

    def __post_init__(self):
        super().__post_init__()
        check_decay(self, "beta_2")
        check_positive(self, "epsilon")
        check_normalizer(self)

    def init_state(self, layout, dtype="float32"):
        return SecondMoment(zeros(layout, dtype=dtype))

    def observe(self, grads_P, state, step):
        return SecondMoment(ema(state.v, ops.square(grads_P), self.beta_2))

    def update(self, weights, grads_P, params_P, state, layout, step):
        state = self.observe(grads_P, state, step)
        v_hat = hat(state.v, self.beta_2, step, self.normalizer)
        return -self.learning_rate * by_root(grads_P, v_hat, self.epsilon), state
