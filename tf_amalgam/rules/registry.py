"""Every rule by name, and the teacher pools of the paper."""

import dataclasses
from collections.abc import Iterable
from typing import Any

from tf_amalgam.checks import unknown
from tf_amalgam.rules.choice import Choice
from tf_amalgam.rules.learned_scalars import LearnedScalars
from tf_amalgam.rules.original import Original
from tf_amalgam.rules.rnnprop import RNNProp
from tf_amalgam.rules.rule import AnalyticRule, Rule
from tf_amalgam.rules.scale import Scale
from tf_amalgam.rules.teachers import (
    LEARNING_RATES,
    POOLS,
    TEACHER_CLASSES,
    TEACHERS,
    check_pool,
    choice_learning_rates,
    from_config,
)

RULES: dict[str, type[Rule]] = {
    **TEACHER_CLASSES,
    **{rule.name: rule for rule in (RNNProp, Choice, Original, Scale, LearnedScalars)},
}

# What the released code does differently; everywhere else moments are bias-corrected.
RELEASED: dict[str, dict[str, Any]] = {
    "momentum": {"normalizer": "none"},
    "rmsprop": {"beta_2": 0.9, "normalizer": "none"},
    "adam": {"normalizer": "constant"},
    "addsign": {"normalizer": "none"},
    "powersign": {"normalizer": "none"},
    "rnnprop": {"normalizer": "constant"},
    "original": {"preprocessing": "raw"},
}
PRESETS = ("paper", "released")


def rule_class(name: str) -> type[Rule]:
    """Returns the class of a rule by its name; ValueError lists the known ones."""
    if name not in RULES:
        raise ValueError(unknown("rule", name, tuple(RULES)))
    return RULES[name]


def check_known(rule: Rule, what: str):
    """Raises ValueError unless a rule is of the class that its name stands for.

    Files hold the name alone; what is trained by a class that they cannot name could
    not be loaded, or would be another one's.

    Args:
        rule: to check.
        what: it is to be, for the message.
    """
    if RULES.get(rule.name) is not type(rule):
        kind = type(rule)
        raise ValueError(
            f"{kind.__module__}.{kind.__qualname__} cannot be {what}: files would name "
            f"it {rule.name!r}, by which nobody finds it. Give the class a name of its "
            "own and put it into rules.RULES (with a Keras optimizer in OPTIMIZERS: "
            "CONTRIBUTING.md)."
        )


def make_rule(name: str, preset: str = "paper", **hyperparameters) -> Rule:
    """Returns a rule by name under a preset; hyperparameters win over both.

    An analytic rule gets the tuned learning rate of `LEARNING_RATES`; a Choice rule's
    `pool` may be a pool's name, or hold teachers' names beside rules; learned scalars
    start from all that their base would get.
    """
    if preset not in PRESETS:
        raise ValueError(unknown("preset", preset, PRESETS))
    cls = rule_class(name)
    if name == LearnedScalars.name:
        config = _preset(hyperparameters.get("base", LearnedScalars.base), preset)
        if "learning_rate" in config:
            config["initial_learning_rate"] = config.pop("learning_rate")
    else:
        config = _preset(name, preset)
    config.update(hyperparameters)
    if cls is Choice:
        config["pool"] = choice_pool(config.get("pool", "small"), preset)
    try:
        return cls(**config)
    except TypeError as error:
        fields = ", ".join(field.name for field in dataclasses.fields(cls))
        raise ValueError(f"{name}: {error}. Its hyperparameters: {fields}.") from None


def _preset(name, preset):
    """Returns the hyperparameters that a preset gives a rule."""
    config: dict[str, Any] = {}
    if preset == "released":
        config.update(RELEASED.get(name, {}))
    if name in LEARNING_RATES:
        config["learning_rate"] = LEARNING_RATES[name]
    return config


def make_pool(teachers, preset: str = "paper") -> tuple[Rule, ...]:
    """Returns teacher rules from a pool's name, or from names and rules.

    Raises:
        ValueError: for an unknown or repeated teacher, a rule that is not analytic,
            an empty pool.
    """
    return _pool(teachers, preset, {})


# Where the members of a Choice pool have their learning rates from.
CHOICE_RATES = ("direct", "released")


def choice_pool(teachers, preset="paper", rates=None) -> tuple[Rule, ...]:
    """Returns the same for the inside of a Choice rule.

    Args:
        rates: learning rates of those given by name: `"direct"`, as of teachers, or
            `"released"`, those of the released code inside a Choice pool; by default
            what the preset says.

    Raises:
        ValueError: as `make_pool`, or for other `rates`.
    """
    if rates not in (None, *CHOICE_RATES):
        raise ValueError(unknown("choice_rates", rates, CHOICE_RATES))
    if (rates or CHOICE_RATES[preset == "released"]) == "direct":
        return make_pool(teachers, preset)
    members = _members(teachers)
    names = [name for name in members if isinstance(name, str) and name in TEACHERS]
    return _pool(members, preset, choice_learning_rates(names))


def _members(teachers):
    """Returns the members of a pool, given by its name or one by one."""
    if isinstance(teachers, str):
        if teachers not in POOLS:
            raise ValueError(unknown("teacher pool", teachers, tuple(POOLS)))
        return POOLS[teachers]
    if isinstance(teachers, dict) or not isinstance(teachers, Iterable):
        raise ValueError(
            "Teachers are given by a pool's name, or as a sequence of names and rules; "
            f"received {teachers!r}."
        )
    return list(teachers)


def _pool(teachers, preset, rates):
    pool: list[Rule] = []
    for teacher in _members(teachers):
        if isinstance(teacher, dict):
            teacher = from_config(teacher)
        if isinstance(teacher, Rule):
            if teacher.name in RULES:  # an own one may have a name of its own
                check_known(teacher, f"a teacher named {teacher.name!r}")
            pool.append(teacher)
        elif teacher in TEACHERS:
            chosen = {"learning_rate": rates[teacher]} if teacher in rates else {}
            pool.append(make_rule(teacher, preset, **chosen))
        elif isinstance(getattr(teacher, "_rule", None), AnalyticRule):
            raise ValueError(
                f"Teachers are names and rules; received {teacher!r}, a Keras "
                f"optimizer. Give its rule, tf_amalgam.rules.{type(teacher).__name__}"
                "(learning_rate=…)."
            )
        elif isinstance(getattr(teacher, "rule", None), Rule):
            pool.append(teacher.rule)  # is refused below
        else:
            raise ValueError(unknown("teacher", teacher, TEACHERS))
    if not pool:
        raise ValueError("A teacher pool needs at least one teacher; received none.")
    check_pool(pool)
    return tuple(pool)
