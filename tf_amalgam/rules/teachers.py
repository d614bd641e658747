"""The analytic teachers by name, their pools and their tuned learning rates."""

from tf_amalgam.checks import unknown
from tf_amalgam.rules.adam import Adam
from tf_amalgam.rules.addsign import AddSign
from tf_amalgam.rules.momentum import Momentum
from tf_amalgam.rules.powersign import PowerSign
from tf_amalgam.rules.rmsprop import RMSProp
from tf_amalgam.rules.rule import AnalyticRule, Rule
from tf_amalgam.rules.sgd import SGD

TEACHER_CLASSES: dict[str, type[AnalyticRule]] = {
    rule.name: rule for rule in (SGD, Momentum, RMSProp, Adam, AddSign, PowerSign)
}
TEACHERS = tuple(TEACHER_CLASSES)
POOLS = {"small": ("adam", "rmsprop"), "large": TEACHERS, "sgd_adam": ("sgd", "adam")}

# Learning rates as direct teachers, found by the authors' grid search on Train, with
# rules of the released preset (bias-corrected, Adam's steps are three times as long).
LEARNING_RATES = {
    "sgd": 0.2,
    "momentum": 0.5,
    "rmsprop": 0.005,
    "adam": 0.005,
    "addsign": 0.1,
    "powersign": 0.1,
}

# Learning rates inside a Choice pool in the released code; SGD has .2 beside Adam
# alone. The paper gives none of its own.
CHOICE_LEARNING_RATES = {
    "sgd": 2.0,
    "momentum": 2.0,
    "rmsprop": 0.005,
    "adam": 0.02,
    "addsign": 1.0,
    "powersign": 1.0,
}


def choice_learning_rates(names) -> dict[str, float]:
    """Returns the released learning rate of each pool member inside a Choice rule."""
    rates = {name: CHOICE_LEARNING_RATES[name] for name in names}
    if set(names) == set(POOLS["sgd_adam"]):
        rates["sgd"] = 0.2
    return rates


def check_pool(pool):
    """Raises ValueError unless all are analytic rules, each once."""
    for rule in pool:
        if not isinstance(rule, AnalyticRule):
            raise ValueError(
                f"A pool holds analytic rules ({', '.join(TEACHERS)}); received "
                f"{rule!r}. A learned rule is nothing without its weights, so it can "
                "be no member; a trained Choice rule teaches with scheme='choice' and "
                "choice='its/folder'."
            )
    if len(set(pool)) < len(pool):
        names = ", ".join(rule.name for rule in pool)
        raise ValueError(
            f"A teacher stands twice in the pool ({names}): the same rule with the "
            "same hyperparameters. Remove one."
        )


def as_config(rule: Rule) -> dict:
    """Returns a teacher's name and hyperparameters, ready for JSON."""
    return {"rule": rule.name, **rule.get_config()}


def from_config(config: dict) -> Rule:
    """Returns the teacher that `as_config` described."""
    config = dict(config)
    name = config.pop("rule", None)
    if name not in TEACHER_CLASSES:
        raise ValueError(unknown("teacher", name, TEACHERS))
    return TEACHER_CLASSES[name](**config)
