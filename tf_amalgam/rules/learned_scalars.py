"""An analytic rule whose learning rate and decays are meta-learned."""

import copy
import dataclasses
import math

import numpy as np
from keras import ops

from tf_amalgam.rules.moments import logit
from tf_amalgam.rules.rule import AnalyticRule, Rule, check_choice
from tf_amalgam.rules.teachers import TEACHER_CLASSES

DECAYS = ("beta_1", "beta_2")
FIXED = ("epsilon", "normalizer")


def with_scalars(rule, scalars):
    """Returns the rule with tensors in place of some of its scalars."""
    bound = copy.copy(rule)
    for name, tensor in scalars.items():
        object.__setattr__(bound, name, tensor)  # frozen, and checked as a number
    return bound


@dataclasses.dataclass(frozen=True)
class LearnedScalars(Rule):
    """The base's rule at lr = exp(φ), β = sigmoid(φ); at first the base itself.

    One to three weights: `log_learning_rate`, and `logit_beta_1`, `logit_beta_2`
    where the base has them. The released code trains the scalars themselves, which
    can leave their range; logarithm and logit cannot.

    While somebody else steps (warm-up), moments decay as the base's do: observing
    knows no weights.

    Args:
        base: name of an analytic rule.
        initial_learning_rate: where the learning rate starts; .005 is the tuned one
            of Adam and RMSProp.
        beta_1, beta_2: where the decays start; None is the base's default.
        epsilon, normalizer: hyperparameters of the base, not learned; likewise.
    """

    name = "learned_scalars"
    base: str = "adam"
    initial_learning_rate: float = 0.005
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    normalizer: str | None = None

    def __post_init__(self):
        check_choice(self, "base", tuple(TEACHER_CLASSES))
        start = self.start
        for name in DECAYS:
            if getattr(start, name, None) == 0:
                raise ValueError(
                    f"LearnedScalars: {name} must be above 0, received 0: a decay is "
                    "learned as its logit."
                )

    @property
    def start(self) -> AnalyticRule:
        """The base rule with the scalars that learning starts from."""
        given = {name: getattr(self, name) for name in (*DECAYS, *FIXED)}
        given = {name: value for name, value in given.items() if value is not None}
        base = TEACHER_CLASSES[self.base]
        foreign = given.keys() - {field.name for field in dataclasses.fields(base)}
        if foreign:
            raise ValueError(
                f"LearnedScalars: {self.base} has no {', '.join(sorted(foreign))}; "
                "leave it None."
            )
        return base(learning_rate=self.initial_learning_rate, **given)

    def init_weights(self, seed):
        start = self.start
        weights = {"log_learning_rate": math.log(start.learning_rate)}
        for name in DECAYS:
            if hasattr(start, name):
                weights[f"logit_{name}"] = logit(getattr(start, name))
        return {name: np.array([w], "float32") for name, w in weights.items()}

    def init_state(self, layout, dtype="float32"):
        return self.start.init_state(layout, dtype)

    def observe(self, grads_P, state, step):
        return self.start.observe(grads_P, state, step)

    def update(self, weights, grads_P, params_P, state, layout, step):
        scalars = {"learning_rate": ops.exp(weights["log_learning_rate"])}
        for name in DECAYS:
            if f"logit_{name}" in weights:
                scalars[name] = ops.sigmoid(weights[f"logit_{name}"])
        rule = with_scalars(self.start, scalars)
        return rule.update({}, grads_P, params_P, state, layout, step)
