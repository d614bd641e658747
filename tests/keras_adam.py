"""Keras' own Adam as a rule, to compare the adapter with Keras bit-near."""

import dataclasses

import keras
from keras import ops

from tf_amalgam.optimizer import RuleOptimizer
from tf_amalgam.rules.moments import MomentsRule


@dataclasses.dataclass(frozen=True)
class KerasAdamRule(MomentsRule):
    """Adam with ε outside the root and the correction on the learning rate."""

    name = "keras_adam"
    epsilon: float = 1e-7

    def update(self, weights, grads_P, params_P, state, layout, step):
        state = self.observe(grads_P, state, step)
        rate = ops.sqrt(1.0 - self.beta_2**step) / (1.0 - self.beta_1**step)
        return -rate * state.m / (ops.sqrt(state.v) + self.epsilon), state


@keras.saving.register_keras_serializable(package="tests")
class AdaptedAdam(RuleOptimizer):
    """Keras' Adam inside our adapter."""

    def __init__(self, learning_rate=0.01, **kwargs):
        super().__init__(KerasAdamRule(1.0), {}, learning_rate, **kwargs)
