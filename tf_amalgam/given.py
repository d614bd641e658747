"""What `amalgamate` is given, as what it works with; or what is wrong with it."""

import os
from collections.abc import Mapping, Sized

from tf_amalgam import optimizers, rules, saved
from tf_amalgam.numerics import derive_seed
from tf_amalgam.rules.choice import Choice
from tf_amalgam.rules.rule import AnalyticRule, Rule

POOL = "small"  # unless another is given


def student(student, preset):
    """Returns the rule that learns, by its name or as it is."""
    if isinstance(student, str):
        student = rules.make_rule(student, preset)
    if isinstance(student, AnalyticRule) or not isinstance(student, Rule):
        learned = [n for n, r in rules.RULES.items() if not issubclass(r, AnalyticRule)]
        raise ValueError(
            f"The student must be a learned rule ({', '.join(learned)}); received "
            f"{student!r}."
        )
    optimizers.check_known(student, "a student")
    return student


def initial_weights(rule, path, seed):
    """Returns (weights, what they are): fresh ones, or those at a name or path."""
    if path is None:
        return rule.init_weights(derive_seed(seed, "student")), "fresh"
    found, weights, header = saved.find(path)
    weights = rule.weights_of(found, weights)
    if weights is None:
        raise ValueError(
            f"initial_weights: {path} holds {found}, the student is {rule}. Use the "
            "same rule with the same hyperparameters."
        )
    return weights, {"path": os.fspath(path), "sha256": header["sha256"]}


def choice(choice, teachers, preset, rates):
    """Returns the Choice rule, its weights or None, and what identifies these."""
    if choice is None or isinstance(choice, Mapping):
        if "pool" in (choice or {}):
            raise ValueError(
                "choice holds a pool; give that as teachers, and as choice only the "
                "other hyperparameters of the Choice rule."
            )
        pool = rules.choice_pool(POOL if teachers is None else teachers, preset, rates)
        fields = {"pool": pool, **(choice or {})}
        return _mixing(rules.make_rule("choice", preset, **fields)), None, {}
    if isinstance(choice, Choice):
        _check_pool(choice, teachers, preset, rates)
        return _mixing(choice), None, {}
    rule, weights, header = saved.find(choice)
    if not isinstance(rule, Choice):
        raise ValueError(
            f"choice: {choice} holds a trained {rule.name}; expected a Choice rule, as "
            "amalgamate writes into the folder `choice` of a run."
        )
    _check_pool(rule, teachers, preset, rates)
    return rule, weights, {"sha256": header["sha256"]}


def _mixing(rule):
    """Returns a Choice rule; raises ValueError for members that files cannot name."""
    for member in rule.pool:
        rules.check_known(member, "a member of a Choice rule")
    return rule


def _check_pool(rule, teachers, preset, rates):
    """Raises ValueError if teachers are given that are not this Choice rule's pool."""
    if teachers is None:
        return
    none = isinstance(teachers, Sized) and not len(teachers)
    given = () if none else rules.choice_pool(teachers, preset, rates)
    if set(given) != set(rule.pool):
        raise ValueError(
            "The Choice rule given as `choice` mixes another pool than teachers says."
            f"\n  choice: {_listed(rule.pool)}\n  teachers, {preset} preset: "
            f"{_listed(given)}\nLeave teachers out (None) to take the rule's pool, or "
            "give a Choice rule over these teachers."
        )


def _listed(pool):
    return ", ".join(map(repr, pool)) or "none"
