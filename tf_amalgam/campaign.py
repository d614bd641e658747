"""A campaign: students trained and evaluated as a list of jobs, as the paper does."""

import itertools
import json
import math
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from tf_amalgam import files, jobs, lineup, records, replicates, workdir
from tf_amalgam.checks import as_whole, check_whole
from tf_amalgam.processes import LOGS

EVALUATION = "evaluation"  # folder of the records
# No names of trainings, nor of their folders.
TAKEN = (EVALUATION, LOGS, lineup.ORACLE, ".", "..")
RATES_FILE = "rates.json"
SETTINGS_FILE = "campaign.json"
# Bindings that say nothing of trainings.
OF_EVALUATIONS = ("campaign.", "evaluate.")


class Optimizee(NamedTuple):
    """An optimizee to evaluate on: its name in .gin files (`%Train`), and its own."""

    reference: str
    name: str


class Campaign(NamedTuple):
    """What is trained and evaluated, out of .gin files.

    Attributes:
        trainings: label → experiment, a file of `gin_configs/experiments` (its name
            alone does) that is trained in the form.
        form: .gin file of the scale of meta-training.
        gin_files, gin_bindings: of the campaign itself, which say all about its
            evaluations.
        optimizees: what all are evaluated on.
        known: names of optimizers that are evaluated beside the students.
        seeds: one evaluation each, of every replicate.
        replicates: of each training.
        runs_per_job: evaluations that one job makes, one after another.
    """

    trainings: dict[str, str]
    form: str
    gin_files: tuple[str, ...]
    gin_bindings: tuple[str, ...]
    optimizees: tuple[Optimizee, ...]
    known: tuple[str, ...]
    seeds: tuple[int, ...]
    replicates: int
    runs_per_job: int


def campaign(
    trainings,
    form,
    *,
    gin_files=(),
    gin_bindings=(),
    optimizees=(),
    known=(),
    seeds=(0,),
    replicates: int = 8,
    runs_per_job: int = 10,
) -> Campaign:
    """Returns a `Campaign` (see there) of checked arguments.

    Raises:
        ValueError: for a count below 1, seeds or names of optimizees of which two are
            alike, a label that cannot name a folder, or one that a training and a known
            optimizer share.
    """
    for name, value in (("replicates", replicates), ("runs_per_job", runs_per_job)):
        check_whole(f"campaign.{name}", value, 1)
    if not isinstance(trainings, Mapping):
        raise ValueError(
            "campaign.trainings is a dict of label → experiment, received "
            f"{trainings!r}."
        )
    for label in trainings:
        if records.safe(label) != label or label in TAKEN:
            raise ValueError(
                f"campaign.trainings: {label!r} is to name a folder of its own; use "
                "letters, digits, dots, dashes and underscores, but none of "
                f"{', '.join(TAKEN)}."
            )
    seeds = tuple(as_whole("evaluate.seeds", seed) for seed in seeds)
    if not seeds:
        raise ValueError("evaluate.seeds is empty; give one at least.")
    if len(set(seeds)) < len(seeds):
        told = ", ".join(map(str, seeds))
        raise ValueError(f"evaluate.seeds has two seeds alike: {told}. Leave one out.")
    names = [optimizee.name for optimizee in optimizees]
    if len(set(map(records.safe, names))) < len(names):
        raise ValueError(
            "evaluate.tasks takes no two optimizees whose names, "
            f"{', '.join(names)}, are alike in a folder's; rename one."
        )
    known = (known,) if isinstance(known, str | Mapping) else tuple(known)
    if unnamed := [one for one in known if not isinstance(one, str)]:
        raise ValueError(
            "A campaign takes evaluate.baselines by their names, adam or keras.AdamW "
            f"say; received {unnamed[0]!r}."
        )
    if len(set(known)) < len(known):
        raise ValueError(
            f"evaluate.baselines has two alike: {', '.join(known)}. Leave one out."
        )
    if both := sorted(trainings.keys() & set(known)):
        raise ValueError(
            f"Trainings and known optimizers share a label: {', '.join(both)}."
        )
    paths = {
        label: path if path.endswith(".gin") else f"gin_configs/experiments/{path}.gin"
        for label, path in trainings.items()
    }
    given = (tuple(map(str, gin_files)), tuple(gin_bindings), tuple(optimizees))
    return Campaign(paths, form, *given, known, seeds, replicates, runs_per_job)


def of_training(what, label):
    """Returns the .gin files and bindings of a training."""
    bindings = [
        line
        for line in what.gin_bindings
        if not line.strip().startswith(OF_EVALUATIONS)
    ]
    return (what.form, what.trainings[label]), tuple(bindings)


def planned(what, folder, cpus=2.0, gpus=0.0) -> Iterator[jobs.Job]:
    """Yields the jobs of a campaign: trainings, then evaluations by optimizee.

    Args:
        what: a `Campaign`.
        folder: where everything goes: a folder of replicates for each training,
            `evaluation` for the records.
        cpus, gpus: what each job takes up.
    """
    yield from trainings(what, folder, cpus, gpus)
    folder = pathlib.Path(folder)
    needs = {"cpus": cpus, "gpus": gpus}
    for optimizee in what.optimizees:
        for label in what.known:
            yield from _evaluations(what, folder, optimizee, label, label, 0, needs)
        for label in what.trainings:
            for i in range(what.replicates):
                source = os.path.join(folder, label)  # of "." no mere name
                yield from _evaluations(
                    what, folder, optimizee, label, source, i, needs
                )


def trainings(what, folder, cpus=2.0, gpus=0.0) -> Iterator[jobs.Job]:
    """Yields those of the jobs that train; arguments as of `planned`."""
    needs = {"cpus": cpus, "gpus": gpus}
    for label in what.trainings:
        gin_files, bindings = of_training(what, label)
        for i in range(what.replicates):
            run = pathlib.Path(folder) / label / f"{workdir.REPLICATE}{i}"
            yield jobs.Job(
                f"train/{label}/{i}",
                "amalgamate",
                gin_files,
                (*bindings, f"amalgamate.replicate = {i}"),
                str(run),
                # The last files: the run's, and the program's.
                makes=tuple(
                    str(run / name)
                    for name in (workdir.CURVES_FILE, workdir.OPERATIVE_FILE)
                ),
                log=str(run / replicates.LOG_FILE),
                **needs,
            )


def _evaluations(what, folder, optimizee, label, source, replicate, needs):
    """Yields the jobs that evaluate one replicate of one optimizer on one optimizee."""
    several = [
        what.seeds[i : i + what.runs_per_job]
        for i in range(0, len(what.seeds), what.runs_per_job)
    ]
    bindings = (
        *what.gin_bindings,
        f"evaluate.tasks = [{optimizee.reference}]",
        f"evaluate.optimizers = { ({label: source})!r}",
        "evaluate.baselines = ()",
    )
    name = f"evaluate/{records.safe(optimizee.name)}/{label}/{replicate}"
    evaluation = str(folder / EVALUATION)
    for seeds in several:
        paths = [
            records.record_name(optimizee.name, label, seed, replicate)
            for seed in seeds
        ]
        part = f"/{seeds[0]}" if len(several) > 1 else ""
        yield jobs.Job(
            f"{name}{part}",
            "evaluate",
            what.gin_files,
            bindings,
            evaluation,
            flags=("--noreport", *(f"--only={path}" for path in paths)),
            makes=tuple(f"{evaluation}/{path}" for path in paths),
            after=(f"train/{label}/{replicate}",) if label in what.trainings else (),
            **needs,
        )


class Group(NamedTuple):
    """Jobs of one kind: those of one training, or of one optimizee."""

    name: str
    jobs: int
    done: int
    hours: float  # of one job; not a number where it is not known
    gpus: float = 0.0  # of one job


def groups(several, hours_of) -> list[Group]:
    """Returns how many jobs there are of each kind, in their order.

    Args:
        several: the jobs, an iterable: they are looked at one at a time.
        hours_of: function of a job, returns its hours or not a number.
    """
    found: list[Group] = []
    for name, those in itertools.groupby(several, lambda job: job.name.split("/")[:2]):
        count = done = 0
        hours = gpus = 0.0
        for job in those:
            count += 1
            done += job.done
            hours += hours_of(job)
            gpus += job.gpus
        found.append(Group("/".join(name), count, done, hours / count, gpus / count))
    return found


def table(found, machine) -> str:
    """Returns groups of jobs as a table in Markdown, with what is left to be done."""
    rows = [["order", "jobs", "of them done", "hours each", "hours left"]]
    known = [g for g in found if not math.isnan(g.hours)]
    for group in found:
        told = group in known
        left = (group.jobs - group.done) * group.hours
        rows.append(
            [
                group.name,
                str(group.jobs),
                str(group.done),
                f"{group.hours:.2f}" if told else "not measured",
                f"{left:.1f}" if told else "not measured",
            ]
        )
    left = sum((g.jobs - g.done) * g.hours for g in known)
    counts = (sum(g.jobs for g in found), sum(g.done for g in found))
    rows.append(["all that was measured", *map(str, counts), "", f"{left:.1f}"])
    note = (
        f"Hours are of one job at a time on: {machine}. Trainings take longer where a "
        "stage goes on while validation improves, and less where teachers lead."
    )
    if any(g.gpus for g in found):
        taken = sum((g.jobs - g.done) * g.hours * g.gpus for g in known)
        note += f" With the GPUs that each takes up they are {taken:.1f} GPU-hours."
    if not machine:
        note = "No rates have been measured for this folder; --measure does."
    return f"{records.markdown(rows)}\n\n{note}"


class Rates(NamedTuple):
    """Measured times of one machine.

    Attributes:
        machine: what it is, in words; empty where nothing was measured.
        epoch: seconds of an epoch of training an optimizee, by its name, and whether
            by a `known` optimizer or by a `student`.
        inner_step: seconds of an inner step of meta-training of one optimizee, by the
            training's label.
    """

    machine: str
    epoch: dict[str, dict[str, float]]
    inner_step: dict[str, float]


NONE = Rates("", {}, {})


def read_rates(folder) -> Rates:
    """Returns the rates that were measured for a campaign; none where there are none.

    Raises:
        ValueError: naming the file, if it cannot be read.
    """
    path = pathlib.Path(folder) / RATES_FILE
    if not path.is_file():
        return NONE
    try:
        return Rates(**json.loads(path.read_text("utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Measure again with --measure."
        ) from error


def write_rates(rates, folder):
    """Writes measured rates into the folder of a campaign."""
    files.write_json(pathlib.Path(folder) / RATES_FILE, rates._asdict())


def hours_of(what, rates, epochs, inner_steps):
    """Returns a function of a job that says its hours, or not a number.

    Args:
        what: the `Campaign`.
        rates: measured `Rates`.
        epochs: of an evaluation.
        inner_steps: of a training's stages as they are given, of all its optimizees,
            by label.
    """
    by_folder = {records.safe(o.name): rates.epoch.get(o.name) for o in what.optimizees}

    def hours(job):
        match job.name.split("/"):
            case ["train", name, _] if name in inner_steps:
                seconds = inner_steps[name] * rates.inner_step.get(name, math.nan)
            case ["evaluate", name, label, _, *_]:
                who = "student" if label in what.trainings else "known"
                epoch = (by_folder.get(name) or {}).get(who, math.nan)
                seconds = len(job.makes) * epochs * epoch
            case _:  # none of this campaign's
                seconds = math.nan
        return seconds / 3600

    return hours
