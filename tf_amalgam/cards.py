"""Cards: what is known of each optimizer that `load` knows by name."""

import dataclasses
import math
import os
import shlex
import textwrap
from collections.abc import Mapping

from tf_amalgam import reached, rules, saved, words
from tf_amalgam.checks import unknown
from tf_amalgam.rules.choice import Choice

SCHEMES = {"mean": "mean", "min_max": "min-max", "choice": "optimal choice"}


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of one optimizer; `print` it to read it.

    Attributes:
        name: by which `load` knows it, or its path, or that of an exported file.
        rule: of `tf_amalgam.rules`.
        hyperparameters: of the rule, by name; an analytic rule's are those of the
            `paper` preset.
        teachers: names of the optimizers it was amalgamated from; for a Choice rule,
            those it mixes. Empty for one that learned alone, and for a teacher.
        scheme: of its amalgamation, in words; empty where there was none.
        noise: what disturbed its weights in training, in words.
        forced: whether its teachers led in all of its training.
        trained_on: the optimizee of its meta-training, in words; empty where it has
            not been trained, or is not known.
        meta_updates: how many its weights have seen; None where that is not known.
        meta_updates_in_all: of the whole training, out of which they are the best.
        validation: mean log change of held-out loss then (lower is better).
        validation_steps: after how many inner steps that was; None if not known.
        validation_optimizees: mean over how many; None if not known.
        begun_from: the weights that it began with, in words; empty for fresh ones.
        preset: of its training.
        seed: root of its training's randomness; None where that is not known.
        hours: that the whole training took, on this `machine`; NaN where not known.
        hours_before: of the trainings that made what it began with; NaN as before.
        with_choice: whether that holds the training of the Choice rule that taught it.
        finished: False if the training was stopped; None where that is not known.
        machine: number and kind of processor cores.
        command: that made it; empty where it is not known.
        licence: of its weights; empty where it is not known.
        sha256: of its weights, which `load` checks; empty for a teacher.
        validations: dicts of meta-update, stage, steps, score and what followed.
        replicates: dicts of what became of the runs out of which it was chosen.
        results: what it reached on fresh optimizees, rows of `measured.results`.
        held_out: the same by seeds that nothing was chosen by, where there are some.
        limits: dicts of what became of it where it was not made for.
    """

    name: str
    rule: str
    hyperparameters: dict
    teachers: tuple[str, ...] = ()
    scheme: str = ""
    noise: str = ""
    forced: bool = False
    trained_on: str = ""
    meta_updates: int | None = None
    meta_updates_in_all: int | None = None
    validation: float = math.nan
    validation_steps: int | None = None
    validation_optimizees: int | None = None
    begun_from: str = ""
    preset: str = ""
    seed: int | None = None
    hours: float = math.nan
    hours_before: float = math.nan
    with_choice: bool = False
    finished: bool | None = None
    machine: str = ""
    command: str = ""
    licence: str = ""
    sha256: str = ""
    validations: tuple[dict, ...] = ()
    replicates: tuple[dict, ...] = ()
    results: tuple[dict, ...] = ()
    held_out: tuple[dict, ...] = ()
    limits: tuple[dict, ...] = ()

    def __str__(self):
        """Returns the card as text, a fact a line."""
        lines = [self.name]
        for fact, told in {"what": self.what, **self.facts()}.items():
            lines += _wrapped(f"{fact}: {told}")
        for rows, seeds in ((self.results, ""), (self.held_out, "held-out seeds: ")):
            if rows:
                lines += _wrapped(f"{seeds}{reached.terms(rows)}:")
                lines += [f"    {reached.result(row)}" for row in rows]
        lines += [f"  known failures: {line}" for line in reached.failures(self)]
        return "\n".join(lines)

    def facts(self) -> dict:
        """Returns what is known beside what it is, in words, by title."""
        found = {
            "trained on": self.trained_on,
            "meta-updates": self._training(),
            "begun from": self.begun_from,
            "training": self._effort(),
            "made by": self.command,
            "licence": self.licence,
            "SHA-256 of weights": self.sha256,
            "hyperparameters": _numbers(self.hyperparameters),
        }
        return {fact: told for fact, told in found.items() if told}

    @property
    def what(self) -> str:
        """The optimizer in one line."""
        if not self.sha256:
            return f"the analytic rule {self.rule}"
        if self.rule == "choice":
            rates = ""
            if self.hyperparameters.get("rate_range"):
                rates = ", with learned rates"
            if self.hyperparameters.get("rate_agreement"):
                rates += " that follow how far gradients agree"
            return f"a Choice rule that mixes {', '.join(self.teachers)}{rates}"
        noise = f", under noise ({self.noise})" if self.noise else ""
        if not self.teachers:
            return f"{self.rule}, without teachers{noise}"
        told = f"{self.scheme} of " if len(self.teachers) > 1 else ""
        alone = ", by teacher forcing alone" if self.forced else ""
        return f"{self.rule}, taught by {told}{', '.join(self.teachers)}{alone}{noise}"

    def _training(self):
        if self.meta_updates is None:
            return ""
        told, last = f"{self.meta_updates}", self.meta_updates_in_all
        if self.meta_updates == 0 and last:
            told = f"none of {last}: what it began with was the best"
        elif last not in (None, self.meta_updates):
            told = f"the first {told} of {last}"
        elif last:
            told += ", the last of which were the best"
        told += f"; log change of held-out loss {self.validation:.2f} (lower is better)"
        if self.validation_steps:
            told += f" after {self.validation_steps} steps"
        if self.validation_optimizees:
            told += f", mean of {self.validation_optimizees} optimizees"
        return told

    def _effort(self):
        told = [f"{self.preset} preset"] if self.preset else []
        told += [f"seed {self.seed}"] if self.seed is not None else []
        if math.isfinite(self.hours):
            told += [f"{60.0 * self.hours:.0f} minutes on {self.machine}"]
            if self.with_choice:
                told[-1] += " with the Choice rule"
            if math.isfinite(self.hours_before):
                whole = 60.0 * (self.hours + self.hours_before)
                told[-1] += f", {whole:.0f} with what made the weights it began with"
        if self.finished is False:
            told += ["not finished (the command goes on where this was stopped)"]
        if len(self.replicates) > 1:
            told += [f"the best of {len(self.replicates)} replicates"]
        return ", ".join(told)


class Cards(Mapping):
    """Cards by name, each read when asked for; `print` lists what there is."""

    def __init__(self, names):
        self._names = tuple(names)

    def __getitem__(self, name):
        """Returns the card of a name."""
        if name not in self._names:
            raise KeyError(unknown("optimizer", str(name), self._names))
        return card(name)

    def __iter__(self):
        """Returns the names, shipped optimizers first."""
        return iter(self._names)

    def __len__(self):
        """Returns how many there are."""
        return len(self._names)

    def __str__(self):
        """Returns a line for each."""
        width = max(map(len, self._names))
        return "\n".join(f"{name:{width}}  {self._line(name)}" for name in self)

    def _line(self, name):
        default = " (the default)" if name == saved.DEFAULT else ""
        try:
            return self[name].what + default
        except ValueError as error:  # one damaged file hides no other
            return f"cannot be loaded: {error}"

    __repr__ = __str__


def available() -> Cards:
    """Returns the cards of all names that `load` knows: shipped ones, then teachers.

    Example:
        >>> "adam" in available()
        True
    """
    return Cards((*saved.shipped_names(), *rules.TEACHERS))


def card(name_or_path=saved.DEFAULT) -> Card:
    """Returns the card of an optimizer by name or from disk, as `load` takes it.

    Raises:
        ValueError, FileNotFoundError: as `load`.
    """
    name, known = os.fspath(name_or_path), saved.is_name(name_or_path)
    if known and name in rules.TEACHERS:
        rule = rules.make_rule(name)
        return Card(name, rule.name, rule.get_config(), **reached.of(name))
    rule, _, header = saved.find(name_or_path)
    about = header["about"]
    validations = about.get("validations", ())
    finished = about.get("finished")  # what a file without validations may say
    if "validations" in about:
        finished = bool(validations) and validations[-1]["then"] == "finish"
    updates = about.get("best_after_meta_updates", about.get("meta_updates"))
    origin = about.get("initial_weights")
    return Card(
        name,
        rule.name,
        header["hyperparameters"],
        teachers=tuple(
            [member.name for member in rule.pool]
            if isinstance(rule, Choice)
            else saved.teachers(about)
        ),
        scheme=SCHEMES.get(about.get("scheme"), "") if about.get("teachers") else "",
        noise=words.noise(about),
        forced=_forced(about),
        trained_on=_optimizee(about.get("task")),
        meta_updates=updates,
        meta_updates_in_all=(
            about.get("meta_updates") if "best_after_meta_updates" in about else None
        ),
        validation=about.get("best_validation", math.nan),
        validation_steps=_validation_steps(about),
        validation_optimizees=about.get("validation_optimizees"),
        begun_from=_origin(origin),
        preset=about.get("preset", ""),
        seed=about.get("root_seed", about.get("seed")),
        hours=about.get("seconds", math.nan) / 3600.0,
        hours_before=_hours_before(origin),
        with_choice="choice" in about,
        finished=finished,
        machine=about.get("versions", {}).get("machine", ""),
        command=_command(about.get("made")),
        licence=about.get("licence", ""),
        sha256=header["sha256"],
        validations=tuple(validations),
        replicates=tuple(about.get("replicates", ())),
        **(reached.of(name, header["sha256"]) if known else {}),
    )


def _optimizee(task):
    """Returns the optimizee that a header tells of, in words."""
    if not task:
        return ""
    parameters = sum(math.prod(shape) for shape in task["shapes"])
    return (
        f"{task['name']} ({task['dataset']}, {parameters:,} parameters, minibatches "
        f"of {task['batch_size']})"
    )


def _forced(about):
    """Returns whether all that a header tells of was teacher forcing."""
    stages = about.get("curriculum", {}).get("stages", ())
    return bool(stages) and all(stage.get("teacher_forcing") for stage in stages)


def _origin(weights):
    """Returns in words what a header says of the weights that training began with."""
    if not isinstance(weights, dict):
        return ""
    name, sha256 = weights["path"], weights["sha256"]
    called = "trained ones"
    if name in saved.shipped_names():
        called = name if _shipped(weights) else f"other weights called {name}"
    return f"{called}, SHA-256 {sha256}"


def _hours_before(weights, seen=frozenset()):
    """Returns the hours of all trainings, one after another, that made such weights.

    NaN for fresh ones, and where one of them is not known.
    """
    header = _shipped(weights) if isinstance(weights, dict) else None
    key = (weights["path"], weights["sha256"]) if header else None
    if header is None or key in seen:
        return math.nan
    origin = header["about"].get("initial_weights")
    earlier = 0.0
    if isinstance(origin, dict):
        earlier = _hours_before(origin, seen | {key})
    return header["about"].get("seconds", math.nan) / 3600.0 + earlier


def _shipped(weights):
    """Returns the header of the shipped optimizer of such weights; None if none is."""
    if weights["path"] not in saved.shipped_names():
        return None
    try:
        _, _, header = saved.find(weights["path"])
    except ValueError:  # a damaged file hides no other
        return None
    return header if header["sha256"] == weights["sha256"] else None


def _validation_steps(about):
    """Returns the inner steps of the validation by which weights were the best."""
    if about.get("validation_steps"):
        return about["validation_steps"]
    if best := [
        row
        for row in about.get("validations", ())
        if row["score"] == about.get("best_validation")
    ]:
        return int(best[-1]["steps"])
    told = "validations" in about or "curriculum" not in about
    if told or about.get("finished") is False:
        return None
    # Older files: scores compare within a stage, so the best is of the last one.
    return about["curriculum"]["stages"][-1]["unroll"]


def _numbers(hyperparameters):
    """Returns hyperparameters in words; those of a pool's members in brackets."""
    told = []
    for key, value in hyperparameters.items():
        if isinstance(value, (list, tuple)):
            told.append(f"{key} {', '.join(map(_member, value))}")
        elif value is not None:
            told.append(f"{key} {value}")
    return ", ".join(told)


def _member(value):
    if not isinstance(value, dict):
        return str(value)
    return f"{value['rule']} ({_numbers({**value, 'rule': None})})"


def _command(made):
    if not made:
        return ""
    command = ["amalgamate", *(f"--gin_file={file}" for file in made["gin_files"])]
    command += ["--workdir=FOLDER"]
    command += [f"--gin_bindings={line}" for line in made["gin_bindings"]]
    place = f"  # its folder {made['part']}" if made["part"] else ""
    return shlex.join(command) + place


def _wrapped(line):
    return textwrap.wrap(
        line, 88, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False
    )
