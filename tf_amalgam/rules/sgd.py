"""Stochastic gradient descent."""

import dataclasses

from tf_amalgam.rules.rule import AnalyticRule


@dataclasses.dataclass(frozen=True)
class SGD(AnalyticRule):
    """δ = −lr·g."""

    name = "sgd"

    def update(self, weights, grads_P, params_P, state, layout, step):
        return -self.learning_rate * grads_P, state
