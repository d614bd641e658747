"""Adam."""

import dataclasses

from tf_amalgam.rules.moments import MomentsRule, by_root


@dataclasses.dataclass(frozen=True)
class Adam(MomentsRule):
    """δ = −lr·m̂/√v̂ (Kingma & Ba 2015, Algorithm 1, with ε inside the root)."""

    name = "adam"

    def update(self, weights, grads_P, params_P, state, layout, step):
        state = self.observe(grads_P, state, step)
        m_hat, v_hat = self.normalized(state, step)
        return -self.learning_rate * by_root(m_hat, v_hat, self.epsilon), state
