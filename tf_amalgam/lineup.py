"""Who takes part in an evaluation: labels, replicates, and how to make each afresh."""

import dataclasses
import logging
import pathlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import keras

from tf_amalgam import replicates, rules, saved
from tf_amalgam.checks import check_number, unknown
from tf_amalgam.optimizer import RuleOptimizer
from tf_amalgam.optimizers import optimizer_for
from tf_amalgam.rules.choice import Choice
from tf_amalgam.rules.rule import AnalyticRule
from tf_amalgam.warm_up import WarmUp, check_steps
from tf_amalgam.workdir import CHOICE_FOLDER, is_unfinished

KERAS = "keras."
ORACLE = "oracle"
KEPT = f"The label {ORACLE!r} is kept for the best of the pool; choose another."


@dataclasses.dataclass(frozen=True)
class KerasOptimizer:
    """One of Keras' own optimizers, as a contestant; Keras' defaults but for these.

    Args:
        name: its class in `keras.optimizers`: "AdamW", "Lion", "Muon", ….
        learning_rate: number above 0; None for Keras' default.
    """

    name: str
    learning_rate: float | None = None

    def __post_init__(self):
        known = keras_names()
        if self.name not in known:
            raise ValueError(unknown("Keras optimizer", self.name, known))
        name = "KerasOptimizer: learning_rate"
        check_number(name, self.learning_rate, above=True, or_none=True)

    def make(self):
        """Returns a fresh one."""
        given = {}
        if self.learning_rate is not None:
            given["learning_rate"] = self.learning_rate
        return getattr(keras.optimizers, self.name)(**given)


def keras_names():
    """Returns the names of the optimizers that this Keras has."""
    base = keras.optimizers.Optimizer
    wrappers = {"Optimizer", "LossScaleOptimizer", "MultiOptimizer"}
    return sorted(
        name
        for name, found in vars(keras.optimizers).items()
        if isinstance(found, type) and issubclass(found, base) and name not in wrappers
    )


class Contestant(NamedTuple):
    """One optimizer that takes part.

    Attributes:
        label: its name in records and tables.
        replicate: its number among students that were trained alike.
        make: function without arguments that returns a fresh Keras optimizer with
            the warm-up of all.
        config: what made it, JSON-ready: hyperparameters, hash of the weights.
        kind: "analytic" or "learned" of ours, "choice" (a Choice rule), or "keras".
        trained: of a saved student, what its meta-training was.
    """

    label: str
    replicate: int
    make: Callable[[], keras.optimizers.Optimizer]
    config: dict
    kind: str
    trained: dict

    @property
    def title(self):
        """Label, and replicate where it is not the first."""
        return f"{self.label} ({self.replicate})" if self.replicate else self.label


def lineup(
    optimizers, *, preset, warmup_steps, warmup_learning_rate, wanted=None
) -> list[Contestant]:
    """Returns the contestants, all with the same warm-up.

    Args:
        optimizers: dict of label → optimizer, or a sequence of optimizers that have
            names of their own. An optimizer is a name or path as `tf_amalgam.load`
            takes them; `"keras.AdamW"` and the like (Keras' defaults); an analytic
            rule; a `KerasOptimizer`; a function without arguments that returns a
            fresh Keras optimizer; or a list of these, which are then replicates of
            one. A folder of replicates stands for all of them, `choice` in it for the
            Choice rules of all.
        preset: hyperparameters of analytic optimizers given by name.
        warmup_steps, warmup_learning_rate: SGD's first steps.
        wanted: `wanted(label, replicate)` says whose files are to be read; of all
            others a contestant says nothing but who it is. None wants all.

    Raises:
        ValueError: for something else, no optimizers, two of one label, or an unknown
            preset.
        FileNotFoundError: for a path where there is none.
    """
    if preset not in rules.PRESETS:
        raise ValueError(unknown("preset", preset, rules.PRESETS))
    terms = {
        "warmup_steps": warmup_steps,
        "warmup_learning_rate": warmup_learning_rate,
    }
    found = []
    optimizers = labelled(optimizers)
    if ORACLE in optimizers:
        raise ValueError(KEPT)
    if not optimizers:
        raise ValueError("evaluate needs at least one optimizer; received none.")
    for label, given in optimizers.items():
        several = _replicates(given)
        if not several:
            raise ValueError(f"{label} has no replicates; expected at least one.")
        for i, one in several.items():
            if wanted is not None and not wanted(label, i):
                found.append(Contestant(label, i, _nobody, {}, "", {}))
                continue
            if _is_path(one) and is_unfinished(one):
                logging.warning(
                    "%s: the training in %s has not ended. What is evaluated is its "
                    "best student so far; afterwards give it another workdir.",
                    label,
                    one,
                )

            read = _read(one)  # once: a training that goes on may write another

            def make(one=one, read=read):
                return _with_warm_up(one, preset, terms, read)

            # Bad names and files show before any work.
            made, again = make(), make()
            if getattr(made, "optimizer", made) is getattr(again, "optimizer", again):
                raise ValueError(
                    f"{label}: each run needs a fresh optimizer, but the function "
                    "returns the same one every time."
                )
            facts = (configuration(made), _kind(made), _training(read))
            found.append(Contestant(label, i, make, *facts))
    return found


def check_named(several):
    """Raises, as `lineup` does, for names and paths that are no optimizer's.

    None is made, which would have TensorFlow take its devices.
    """
    for given in several:
        if given == ORACLE:
            raise ValueError(KEPT)
        if given.startswith(KERAS):
            KerasOptimizer(given.removeprefix(KERAS))
        elif not saved.is_name(given):
            for one in _replicates(given).values():
                saved.find(one)


def _nobody():
    raise ValueError("This contestant was not wanted, and has not been read.")


def configuration(optimizer) -> dict:
    """Returns what made an optimizer, JSON-ready; of its weights only their SHA-256."""
    own = getattr(optimizer, "optimizer", optimizer)  # inside a warm-up
    name = f"{type(own).__module__.partition('.')[0]}.{type(own).__name__}"
    config = {**optimizer.get_config(), "class": name}
    if config.pop("rule_weights", None) is not None:
        config["weights_sha256"] = saved.digest(optimizer.rule_weights)
    return config


# What a record keeps of a student's meta-training.
TRAINING = (
    "scheme",
    "preset",
    "perturbation",
    "input_noise",
    "meta_updates",
    "meta_batch",
    "seconds",
)


def _read(given):
    """Returns `(rule, weights, header)` of a trained optimizer; None of all others."""
    if not isinstance(given, (str, pathlib.Path)):
        return None
    if isinstance(given, str) and (given.startswith(KERAS) or given in rules.TEACHERS):
        return None
    return saved.find(given)


def _training(read):
    if read is None:
        return {}
    rule, _, header = read
    about = header["about"]
    found = {key: about[key] for key in TRAINING if key in about}
    task = about["task"]["name"] if "task" in about else ""
    return {
        "student": rule.name,
        "teachers": saved.teachers(about),
        "task": task,
        "begun_from": _begun_from(about),
        **found,
    }


def _begun_from(about):
    """Returns what was trained before a run, which its hours do not hold, in words."""
    origin, teachers = about.get("initial_weights"), about.get("teachers", ())
    parts = [pathlib.Path(origin["path"]).name] if isinstance(origin, dict) else []
    if any("sha256" in teacher for teacher in teachers):
        parts.append("a trained Choice rule as teacher")
    return ", ".join(parts)


def _kind(optimizer):
    if not isinstance(optimizer, RuleOptimizer):
        return "keras"
    if isinstance(optimizer._rule, AnalyticRule):
        return "analytic"
    return "choice" if isinstance(optimizer.rule, Choice) else "learned"


def labelled(optimizers) -> dict:
    """Returns label → optimizer of what `lineup` takes.

    Raises:
        ValueError: for two of one label.
    """
    if not isinstance(optimizers, dict):
        single = isinstance(optimizers, (str, pathlib.Path))
        if not single and not isinstance(optimizers, Iterable):
            raise ValueError(
                "Optimizers are given as a dict of label → optimizer, or as a "
                f"sequence; received {optimizers!r}."
            )
        given = [optimizers] if single else list(optimizers)
        optimizers = {_label(item): item for item in given}
        if len(optimizers) < len(given):
            raise ValueError(
                f"Two of {given} have the same label; pass a dict of label → optimizer."
            )
    return optimizers


def _label(item):
    if isinstance(item, AnalyticRule):
        return item.name
    if isinstance(item, KerasOptimizer):
        return f"{KERAS}{item.name}"
    if str(item).startswith(KERAS):
        return str(item)
    makes = callable(item) and not isinstance(item, keras.optimizers.Optimizer)
    if makes or isinstance(item, (list, tuple)):
        raise ValueError(
            f"{item!r} has no name of its own, by which another process would know its "
            "runs. Pass a dict of label → optimizer."
        )
    path = pathlib.Path(str(item)).expanduser().absolute()  # also "." has a name then
    if path.suffix == ".npz" and path.stem == "student":
        return path.parent.name
    return path.stem if path.suffix == ".npz" else path.name


def _replicates(given):
    """Returns replicate number → what makes it."""
    if isinstance(given, (list, tuple)):
        return dict(enumerate(given))
    if not _is_path(given):
        return {0: given}
    folder = pathlib.Path(given).expanduser()
    if folder.name == CHOICE_FOLDER and not folder.exists():
        several = replicates.students(folder.parent)
        return {n: each / CHOICE_FOLDER for n, each in several.items()} or {0: given}
    return (folder.is_dir() and replicates.students(folder)) or {0: given}


def _is_path(given):
    """Returns whether an entry is where something lies, and no name."""
    named = saved.is_name(given) or (isinstance(given, str) and given.startswith(KERAS))
    return isinstance(given, (str, pathlib.Path)) and not named


def _with_warm_up(given, preset, terms, read):
    """Returns a fresh optimizer that warms up as all others do.

    Args:
        given: one of those of `lineup`.
        preset: see `lineup`.
        terms: of the warm-up.
        read: what `_read` found.
    """
    if read is not None:
        rule, weights, _ = read
        return optimizer_for(rule, weights, **terms)
    if isinstance(given, AnalyticRule):
        return optimizer_for(given, {}, **terms)
    if isinstance(given, str) and given.startswith(KERAS):
        given = KerasOptimizer(given.removeprefix(KERAS))
    if isinstance(given, (str, pathlib.Path)):
        return saved.load(given, preset=preset, **terms)
    if isinstance(given, KerasOptimizer):
        optimizer = given.make()
    elif callable(given) and not isinstance(given, keras.optimizers.Optimizer):
        optimizer = given()
    else:
        raise ValueError(
            "An optimizer to evaluate is a name, a path, an analytic rule, a "
            "KerasOptimizer, or a function that returns a fresh Keras optimizer (each "
            f"run needs a fresh one); received {given!r}."
        )
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            "The function of an optimizer to evaluate must return a Keras optimizer; "
            f"it returned {optimizer!r}."
        )
    if isinstance(optimizer, RuleOptimizer):
        check_steps(optimizer)
        optimizer.warmup_steps = terms["warmup_steps"]
        optimizer.warmup_learning_rate = terms["warmup_learning_rate"]
        return optimizer
    return WarmUp(optimizer, terms["warmup_steps"], terms["warmup_learning_rate"])
