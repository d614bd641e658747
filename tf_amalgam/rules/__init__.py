"""Update rules: the six teachers and the learned rules."""

from tf_amalgam.rules.adam import Adam
from tf_amalgam.rules.addsign import AddSign
from tf_amalgam.rules.learned_scalars import LearnedScalars
from tf_amalgam.rules.momentum import Momentum
from tf_amalgam.rules.original import Original
from tf_amalgam.rules.powersign import PowerSign
from tf_amalgam.rules.registry import (
    LEARNING_RATES,
    POOLS,
    PRESETS,
    RULES,
    TEACHERS,
    make_pool,
    make_rule,
    rule_class,
    unknown,
)
from tf_amalgam.rules.rmsprop import RMSProp
from tf_amalgam.rules.rnnprop import RNNProp
from tf_amalgam.rules.rule import Rule
from tf_amalgam.rules.scale import Scale
from tf_amalgam.rules.sgd import SGD

__all__ = [
    "LEARNING_RATES",
    "POOLS",
    "PRESETS",
    "RULES",
    "SGD",
    "TEACHERS",
    "Adam",
    "AddSign",
    "LearnedScalars",
    "Momentum",
    "Original",
    "PowerSign",
    "RMSProp",
    "RNNProp",
    "Rule",
    "Scale",
    "make_pool",
    "make_rule",
    "rule_class",
    "unknown",
]
