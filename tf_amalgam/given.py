"""What `amalgamate` is given, as what it works with; or what is wrong with it."""

import os
from collections.abc import Mapping, Sized

import keras
import tensorflow as tf

from tf_amalgam import optimizers, rules, saved
from tf_amalgam.checks import check_number, first_of, unknown
from tf_amalgam.curriculum import Stage
from tf_amalgam.numerics import derive_seed
from tf_amalgam.objective import ABOVE_ZERO
from tf_amalgam.perturbation import Perturbation
from tf_amalgam.rules.choice import Choice
from tf_amalgam.rules.rule import AnalyticRule, Rule
from tf_amalgam.settings import PRESETS
from tf_amalgam.tasks.task import check_task

POOL = "small"  # unless another is given


def check(task, preset, perturbation, checkpoint_seconds):
    """Raises ValueError for what would fail late, or be wrong in silence."""
    check_task(task)
    if keras.config.floatx() != "float32":
        raise ValueError(
            f"Keras' floatx is {keras.config.floatx()!r}; meta-training computes in "
            'float32. Call keras.config.set_floatx("float32") before the optimizee is '
            "made; a layer may have a dtype of its own."
        )
    if preset not in PRESETS:
        raise ValueError(unknown("preset", preset, tuple(PRESETS)))
    if not isinstance(perturbation, (Perturbation, type(None))):
        raise ValueError(
            f"perturbation must be a Perturbation or None, received {perturbation!r}."
        )
    check_number("checkpoint_seconds", checkpoint_seconds)
    if constrained := task.constrained:
        raise ValueError(
            f"{first_of(constrained)} of Task {task.name!r} have constraints, which "
            "Keras' optimizers hold after each step and meta-training does not. Leave "
            "them out of what it trains on; evaluations and `fit` take them."
        )
    params, state = task.initial(0)
    batch = tuple(part[: task.batch_size] for part in task.dataset.validation)
    loss = float(task.held_out_loss(tf.constant(params), state, batch))
    if loss <= 0.0:
        raise ValueError(
            f"The loss of Task {task.name!r} is {loss:.3g} with a fresh model. "
            f"{ABOVE_ZERO}"
        )


def stages(stages, name="stages"):
    """Returns `Stage`s, given as they are or as tuples."""
    try:
        return tuple(s if isinstance(s, Stage) else Stage(*s) for s in stages)
    except TypeError as error:
        raise ValueError(
            f"{name} must be a sequence of Stage or (inner steps, periods[, alpha, "
            f"teacher_forcing, meta_learning_rate]), such as ((100, 4),); received "
            f"{stages!r}."
        ) from error


def pool(teachers, preset):
    """Returns the teachers of a direct scheme; `()` of an empty sequence."""
    teachers = POOL if teachers is None else teachers
    return () if _none(teachers) else rules.make_pool(teachers, preset)


def _none(teachers):
    return isinstance(teachers, Sized) and not len(teachers)


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
            "same rule with the same hyperparameters: "
            f"student=tf_amalgam.load({os.fspath(path)!r}).rule."
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
    given = () if _none(teachers) else rules.choice_pool(teachers, preset, rates)
    if set(given) != set(rule.pool):
        raise ValueError(
            "The Choice rule given as `choice` mixes another pool than teachers says."
            f"\n  choice: {_listed(rule.pool)}\n  teachers, {preset} preset: "
            f"{_listed(given)}\nLeave teachers out (None) to take the rule's pool, or "
            "give a Choice rule over these teachers."
        )


def _listed(pool):
    return ", ".join(map(repr, pool)) or "none"
