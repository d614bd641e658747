"""AddSign with a smooth sign."""

import dataclasses

from keras import ops

from tf_amalgam.rules.moments import MomentsRule, by_root


def sign_agreement(grads_P, m_hat, v_hat, epsilon):
    """tanh(m̂/√v̂)·tanh(g/√v̂) ≈ sign(m̂)·sign(g) (Huang et al. 2022, Eq. 8)."""
    return ops.tanh(by_root(m_hat, v_hat, epsilon)) * ops.tanh(
        by_root(grads_P, v_hat, epsilon)
    )


@dataclasses.dataclass(frozen=True)
class AddSign(MomentsRule):
    """δ = −lr·g·(1 + sign m̂ · sign g), smooth (Bello et al. 2017; Eq. 7 and 8)."""

    name = "addsign"

    def update(self, weights, grads_P, params_P, state, layout, step):
        state = self.observe(grads_P, state, step)
        m_hat, v_hat = self.normalized(state, step)
        agreement_P = sign_agreement(grads_P, m_hat, v_hat, self.epsilon)
        return -self.learning_rate * grads_P * (1.0 + agreement_P), state
