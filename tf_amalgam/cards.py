"""Cards: what is known of each optimizer that `load` knows by name."""

import csv
import dataclasses
import functools
import math
import os
import textwrap
import tomllib
from collections.abc import Mapping

from tf_amalgam import rules, saved, words
from tf_amalgam.rules.choice import Choice

# How the shipped ones were made, their licence; what `benchmarks/zoo.py` measured.
MADE = saved.ZOO / "made.toml"
RESULTS = saved.ZOO / "results.csv"
SCHEMES = {"mean": "mean", "min_max": "min-max", "choice": "optimal choice"}


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of one optimizer; `print` it to read it.

    Attributes:
        name: by which `load` knows it, or its path.
        rule: of `tf_amalgam.rules`.
        hyperparameters: of the rule, by name; an analytic rule's are those of the
            `paper` preset.
        teachers: names of the optimizers it was amalgamated from; for a Choice rule,
            those it mixes. Empty for one that learned alone, and for a teacher.
        scheme: of its amalgamation, in words; empty where there was none.
        noise: what disturbed its weights in training, in words.
        trained_on: the optimizee of its meta-training, in words; empty where it has
            not been trained, or is not known.
        meta_updates: how many its weights have seen; None where that is not known.
        validation: mean log improvement of held-out loss then (lower is better).
        command: that made it; empty where it is not known.
        licence: of its weights; empty where it is not known.
        sha256: of its weights, which `load` checks; empty for a teacher.
        results: what it reached on fresh optimizees, as `zoo/results.csv` has it.
    """

    name: str
    rule: str
    hyperparameters: dict
    teachers: tuple[str, ...] = ()
    scheme: str = ""
    noise: str = ""
    trained_on: str = ""
    meta_updates: int | None = None
    validation: float = math.nan
    command: str = ""
    licence: str = ""
    sha256: str = ""
    results: tuple[dict, ...] = ()

    def __str__(self):
        """Returns the card as text, a fact a line."""
        facts = {
            "what": self.what,
            "trained on": self.trained_on,
            "meta-updates": self._training(),
            "made by": self.command,
            "licence": self.licence,
            "SHA-256": self.sha256,
        }
        if not self.sha256:
            numbers = [f"{key} {value}" for key, value in self.hyperparameters.items()]
            facts["hyperparameters"] = ", ".join(numbers)
        lines = [self.name]
        for fact, told in facts.items():
            if told:
                lines += textwrap.wrap(
                    f"{fact}: {told}",
                    88,
                    initial_indent="  ",
                    subsequent_indent="    ",
                    break_on_hyphens=False,
                )
        if self.results:
            lines += [f"  {_terms(self.results[0])}:"]
            lines += [f"    {_result(row)}" for row in self.results]
        return "\n".join(lines)

    @property
    def what(self) -> str:
        """The optimizer in one line."""
        if not self.sha256:
            return f"the analytic rule {self.rule}"
        if self.rule == "choice":
            return f"a Choice rule that mixes {', '.join(self.teachers)}"
        noise = f", under noise ({self.noise})" if self.noise else ""
        if not self.teachers:
            return f"{self.rule}, without teachers{noise}"
        told = f"{self.scheme} of " if len(self.teachers) > 1 else ""
        return f"{self.rule}, taught by {told}{', '.join(self.teachers)}{noise}"

    def _training(self):
        if self.meta_updates is None:
            return ""
        return (
            f"{self.meta_updates}; held-out log improvement {self.validation:.2f} "
            "(lower is better)"
        )


class Cards(Mapping):
    """Cards by name, each read when asked for; `print` lists what there is."""

    def __init__(self, names):
        self._names = tuple(names)

    def __getitem__(self, name):
        """Returns the card of a name."""
        if name not in self._names:
            raise KeyError(rules.unknown("optimizer", str(name), self._names))
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
        return "\n".join(f"{name:{width}}  {self[name].what}" for name in self)

    __repr__ = __str__


def available() -> Cards:
    """Returns the cards of all names that `load` knows: shipped ones, then teachers.

    Example:
        >>> "adam" in available()
        True
    """
    return Cards((*saved.shipped_names(), *rules.TEACHERS))


def card(name_or_path) -> Card:
    """Returns the card of an optimizer by name or from disk, as `load` takes it.

    Raises:
        ValueError, FileNotFoundError: as `load`.
    """
    name = os.fspath(name_or_path)
    if name in rules.TEACHERS:
        rule = rules.make_rule(name)
        return Card(name, rule.name, rule.get_config(), results=_results(name))
    rule, _, header = saved.find(name)
    about = header["about"]
    shipped = name in saved.shipped_names()
    made = _made() if shipped else {}
    updates = about.get("best_after_meta_updates", about.get("meta_updates"))
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
        trained_on=_optimizee(about.get("task")),
        meta_updates=updates,
        validation=about.get("best_validation", math.nan),
        command=_command(made.get("optimizers", {}).get(name)),
        licence=about.get("licence", made.get("licence", "")),
        sha256=header["sha256"],
        results=_results(name) if shipped else (),
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


def _command(made):
    if not made:
        return ""
    files = [f"--gin_file=gin_configs/{file}" for file in made["gin_files"]]
    place = f" ({made['file']} of its folder)" if "file" in made else ""
    return " ".join(["amalgamate", *files, "--workdir=FOLDER"]) + place


def _terms(row):
    preset = f"{row['preset']} preset, " if row["kind"] == "analytic" else ""
    return (
        f"measured ({preset}warm-up of {row['warmup_steps']} steps at "
        f"{row['warmup_learning_rate']}; losses at the best of {row['epochs']} epochs)"
    )


def _result(row):
    told = f"{row['optimizee']}: {float(row['validation_loss']):.4f}"
    if row["validation_sd"]:
        told += f" ± {float(row['validation_sd']):.4f}"
    told += f" validation, {float(row['test_loss']):.4f} test"
    if row["test_accuracy"]:
        told += f", accuracy {float(row['test_accuracy']):.4f}"
    if int(row["diverged"]):
        told += f", {row['diverged']} diverged"
    told += f" ({row['seeds']} seeds)"
    if row["oracle"] and row["oracle"] != row["optimizer"]:
        told += f"; oracle {row['oracle']} {float(row['oracle_loss']):.4f}"
    return told


@functools.cache
def _made():
    return tomllib.loads(MADE.read_text())


@functools.cache
def _table():
    if not RESULTS.is_file():
        return ()
    with open(RESULTS, newline="") as file:
        return tuple(csv.DictReader(file))


def _results(name):
    return tuple(row for row in _table() if row["optimizer"] == name)
