"""PowerSign with a smooth sign."""

import dataclasses

from keras import ops

from tf_amalgam.rules.addsign import sign_agreement
from tf_amalgam.rules.moments import MomentsRule


@dataclasses.dataclass(frozen=True)
class PowerSign(MomentsRule):
    """δ = −lr·g·exp(sign m̂ · sign g), smooth (Bello et al. 2017; Eq. 7 and 8)."""

    name = "powersign"

    def update(self, weights, grads_P, params_P, state, layout, step):
        state = self.observe(grads_P, state, step)
        m_hat, v_hat = self.normalized(state, step)
        agreement_P = sign_agreement(grads_P, m_hat, v_hat, self.epsilon)
        return -self.learning_rate * grads_P * ops.exp(agreement_P), state
