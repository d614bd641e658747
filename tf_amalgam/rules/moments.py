"""Running moments of the gradient and their three normalizations."""

import dataclasses
import math
from typing import Any, NamedTuple

from keras import ops

from tf_amalgam.rules.rule import (
    AnalyticRule,
    check_choice,
    check_decay,
    check_positive,
    zeros,
)

# What the hats over m and v mean:
#   bias_corrected  m/(1−β₁ᵗ), v/(1−β₂ᵗ)   the paper; Kingma & Ba 2015
#   constant        m/(1−β₁),  v/(1−β₂)    the authors' released code
#   none            m, v                   where the released code leaves them
NORMALIZERS = ("bias_corrected", "constant", "none")


class Moments(NamedTuple):
    """First and second moment of the gradient."""

    m: Any  # [P]
    v: Any  # [P]


class SecondMoment(NamedTuple):
    """Second moment of the gradient."""

    v: Any  # [P]


class FirstMoment(NamedTuple):
    """First moment of the gradient."""

    m: Any  # [P]


def ema(average, value, decay):
    """Returns decay·average + (1 − decay)·value."""
    return decay * average + (1.0 - decay) * value


def update_moments(grads_P, state, beta_1, beta_2):
    """m ← β₁m + (1−β₁)g, v ← β₂v + (1−β₂)g² (Kingma & Ba 2015, Algorithm 1)."""
    return Moments(
        ema(state.m, grads_P, beta_1), ema(state.v, ops.square(grads_P), beta_2)
    )


def hat(average, beta, step, normalizer):
    """Returns the normalized moment (see `NORMALIZERS`)."""
    if normalizer == "none":
        return average
    if normalizer == "constant":
        return average / (1.0 - beta)
    return average / (1.0 - beta**step)


def logit(beta):
    """Returns the number whose sigmoid is `beta`: how a decay is learned."""
    return math.log(beta) - math.log1p(-beta)


def by_root(value, v_hat, epsilon):
    """Returns value/√(v̂ + ε): ε stands inside the root (released code)."""
    return value / ops.sqrt(v_hat + epsilon)


def check_normalizer(rule):
    """Raises ValueError for a normalizer that does not exist."""
    check_choice(rule, "normalizer", NORMALIZERS)


@dataclasses.dataclass(frozen=True)
class MomentsRule(AnalyticRule):
    """Base of the analytic rules that need both moments."""

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-10
    normalizer: str = "bias_corrected"

    def __post_init__(self):
        super().__post_init__()
        check_decay(self, "beta_1", "beta_2")
        check_positive(self, "epsilon")
        check_normalizer(self)

    def init_state(self, layout, dtype="float32"):
        return Moments(zeros(layout, dtype=dtype), zeros(layout, dtype=dtype))

    def observe(self, grads_P, state, step):
        return update_moments(grads_P, state, self.beta_1, self.beta_2)

    def normalized(self, state, step):
        """Returns (m̂, v̂)."""
        return (
            hat(state.m, self.beta_1, step, self.normalizer),
            hat(state.v, self.beta_2, step, self.normalizer),
        )
