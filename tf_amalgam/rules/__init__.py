"""Update rules: the teachers, the students and mixtures."""

from tf_amalgam.rules.adam import Adam
from tf_amalgam.rules.addsign import AddSign
from tf_amalgam.rules.choice import Choice
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
    check_known,
    choice_pool,
    make_pool,
    make_rule,
    rule_class,
)
from tf_amalgam.rules.rmsprop import RMSProp
from tf_amalgam.rules.rnnprop import RNNProp
from tf_amalgam.rules.rule import Rule
from tf_amalgam.rules.scale import Scale
from tf_amalgam.rules.sgd import SGD
from tf_amalgam.rules.teachers import as_config

__all__ = [
    "LEARNING_RATES",
    "POOLS",
    "PRESETS",
    "RULES",
    "SGD",
    "TEACHERS",
    "Adam",
    "AddSign",
    "Choice",
    "LearnedScalars",
    "Momentum",
    "Original",
    "PowerSign",
    "RMSProp",
    "RNNProp",
    "Rule",
    "Scale",
    "as_config",
    "check_known",
    "choice_pool",
    "make_pool",
    "make_rule",
    "rule_class",
]
