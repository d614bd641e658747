"""Update rules: the six teachers and the student."""

from tf_amalgam.rules.adam import Adam
from tf_amalgam.rules.addsign import AddSign
from tf_amalgam.rules.momentum import Momentum
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
    "Momentum",
    "PowerSign",
    "RMSProp",
    "RNNProp",
    "Rule",
    "make_pool",
    "make_rule",
    "rule_class",
    "unknown",
]
