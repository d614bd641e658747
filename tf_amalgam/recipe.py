"""Campaigns at the edge: what .gin files tell of one, checked and run."""

import json
import logging
import os
import pathlib

import gin

from tf_amalgam import (
    bindings,
    campaign,
    data,
    files,
    launchers,
    privacy,
    records,
    references,
    replicates,
    reporting,
    rules,
)
from tf_amalgam.checks import check_number, check_whole, first_of, several
from tf_amalgam.engines import Local
from tf_amalgam.lineup import check_named
from tf_amalgam.workdir import differences

# Of `evaluate`, what all evaluations of a campaign share.
EVALUATED = ("preset", "epochs", "warmup_steps", "warmup_learning_rate")
# Of a campaign, what a .gin file binds elsewhere.
OF_EVALUATE = {
    "seeds": "evaluate.seeds",
    "known": "evaluate.baselines",
    "optimizees": "evaluate.tasks",
}
# What is bound, but changes no result: it may differ from machine to machine.
ELSEWHERE = (
    "data_dir",
    "amalgamate.checkpoint_seconds",
    "amalgamate.progress",
    "amalgamate.replicas",
    "amalgamate.strategy",
)


def read(gin_files, gin_bindings) -> campaign.Campaign:
    """Returns the campaign that .gin files tell of; no optimizee is made.

    Raises:
        ValueError: for what is missing or cannot be read; also in what its trainings
            are told.
    """
    bindings.parse(gin_files, gin_bindings)
    bindings.check_given("campaign")
    bindings.check_given("evaluate", but=("optimizers",))  # each job has its own
    texts = [gin.config_str()]
    bound = gin.get_bindings("campaign", resolve_references=False)
    if taken := OF_EVALUATE.keys() & bound.keys():
        told = [f"{OF_EVALUATE[name]}, not campaign.{name}" for name in sorted(taken)]
        raise ValueError(f"Give {'; '.join(told)}: it is that of all evaluations.")
    found = bindings.REGISTERED["campaign"](
        gin_files=gin_files,
        gin_bindings=gin_bindings,
        optimizees=[campaign.Optimizee(repr(t), _name_of(t)) for t in optimizees()],
        known=bindings.bound("baselines", "evaluate"),
        seeds=several(bindings.bound("seeds", "evaluate")),
    )
    _check_evaluations(found)
    folder = _data_dir()
    for label in found.trainings:
        bindings.parse(*campaign.of_training(found, label))
        bindings.check_given("amalgamate")
        texts.append(gin.config_str())
        others = _data_dir()
        if (folder and others is None) or (others and folder is None):
            raise ValueError(
                f"Evaluations have data_dir = {folder!r}, the training {label} has "
                f"{others!r}: it reads the form, its experiment and the bindings of "
                "the call, they the campaign's own file and these. Give data_dir by "
                "--gin_bindings."
            )
    names = ["campaign", "evaluate", "amalgamate"]
    bindings.check_used(names, gin_bindings, "\n".join(texts))
    bindings.parse(gin_files, gin_bindings)
    return found


def _check_evaluations(what):
    """Raises ValueError for what evaluations would refuse after days of training."""
    terms = {name: bindings.bound(name, "evaluate") for name in EVALUATED}
    check_whole("evaluate.epochs", terms["epochs"], 1)
    check_whole("evaluate.warmup_steps", terms["warmup_steps"], 0)
    rules.make_rule("adam", terms["preset"])
    name = "warmup_learning_rate"
    check_number(f"evaluate.{name}", terms[name], above=True)
    check_named(what.known)


def _data_dir():
    """Returns the folder of the configuration's image sets; "" where it has none."""
    try:
        return gin.query_parameter("data_dir/macro.value")
    except ValueError:
        return ""


def run(what, several, workdir, on):
    """Runs jobs of a campaign; makes the report once nothing more can be run.

    Args:
        what: the `campaign.Campaign`.
        several: those of its jobs that are to be run; evaluations of students whose
            training has not ended, and is not among them, are left.
        workdir: where everything goes.
        on: a launcher.

    Raises:
        ValueError: if the folder holds a campaign of other settings, or a job is none
            of this one's.
        FileNotFoundError, ImportError: for a data set, or TensorFlow Privacy, that an
            evaluation needs and this machine lacks, if it is to run them.
        RuntimeError: naming the jobs that failed, or were left, after all others have
            ended.
    """
    _check_listed(what, several, workdir)
    if isinstance(on, Local):
        _check_here(what, several)
    claim(what, workdir)
    evaluation = pathlib.Path(workdir) / campaign.EVALUATION
    mine = {job.name for job in several}
    ended = _Ended()
    untrained = {
        job.name for job in campaign.trainings(what, workdir) if job not in ended
    }
    missing = sorted(
        {name for job in several for name in job.after if name in untrained - mine}
    )
    ready = [job for job in several if not set(missing) & set(job.after)]
    students = dict.fromkeys(what.trainings, range(what.replicates))
    records.remember_order(
        evaluation,
        [optimizee.name for optimizee in what.optimizees],
        [*what.known, *what.trainings],
        seeds=what.seeds,
        replicates=dict.fromkeys(what.known, range(1)) | students,
    )
    failed = launchers.run(ready, on, workdir, description="campaign")
    for label in what.trainings:
        if (pathlib.Path(workdir) / label).is_dir():
            replicates.summarize(pathlib.Path(workdir) / label)
    ended = _Ended()
    done = [
        job in ended or not failed.keys().isdisjoint((job.name, *job.after))
        for job in campaign.planned(what, workdir)
    ]
    try:
        if all(done) and any(evaluation.glob("*/*.json")):
            print(reporting.write_report(evaluation))
    except Exception as error:
        if failed:  # the likelier reason
            logging.error("The report could not be made: %s", error)
            launchers.check(failed, ready, workdir)
        raise
    launchers.check(failed, ready, workdir)
    if missing:
        raise RuntimeError(
            f"{len(several) - len(ready)} of {len(several)} jobs were left: they "
            "evaluate students whose training has not ended "
            f"({first_of(missing)}). Run these first, or with them; "
            f"amalgam-report {evaluation} reports what is there."
        )


def _check_here(what, several):
    """Raises what evaluations of these jobs would after days of training."""
    bindings.parse(what.gin_files, what.gin_bindings)
    for optimizee, reference in zip(what.optimizees, optimizees(), strict=True):
        mine = f"evaluate/{records.safe(optimizee.name)}/"
        if not any(job.name.startswith(mine) and not job.done for job in several):
            continue
        try:
            for selector, bound in references.bindings_of(reference):
                if selector.endswith("tasks.private"):
                    for module in privacy.MODULES:
                        privacy.imported(module)
                if isinstance(name := bound.get("dataset"), str):
                    data.check_there(name, bound.get("data_dir"))
        except (OSError, ImportError) as error:
            raise type(error)(
                f"{optimizee.name} cannot be evaluated here: {error}\nOr leave it out "
                "of evaluate.tasks, or choose other jobs by --only."
            ) from error


class _Ended:
    """The jobs that are done by now, elsewhere too; each folder is looked at anew."""

    def __init__(self):
        self._looked = set()

    def __contains__(self, job):
        for folder in {os.path.dirname(path) for path in job.makes} - self._looked:
            self._looked.add(folder)
            files.look_anew(folder or ".")
        return job.done


def _check_listed(what, several, workdir):
    """Raises ValueError for a job that does anything else than this campaign's does.

    A list may have been edited: what a job takes up, where its output goes.
    """
    mine = {job.name: job for job in several}
    for planned in campaign.planned(what, workdir):
        listed = mine.pop(planned.name, planned)
        if listed[1:6] == planned[1:6] and listed.after == planned.after:
            continue  # all that `_computes` looks at, as it is
        if _computes(listed) != _computes(planned):
            raise ValueError(
                f"The job {planned.name} is not what this campaign does under that "
                "name: its list was made with other flags. Give the same .gin files, "
                "bindings and workdir, or make the list again."
            )
    if mine:
        raise ValueError(
            f"{next(iter(mine))} is no job of this campaign. Give the flags that its "
            "list was made with."
        )


def _computes(job):
    """Returns what of a job decides its results."""
    pairs = (line.partition("=")[::2] for line in job.gin_bindings)
    bound = [(name.strip(), value.strip()) for name, value in pairs]
    # Where students lie follows from the workdir, which may be written otherwise.
    left_out = (*ELSEWHERE, "evaluate.optimizers")
    return (
        *(job.program, job.gin_files, os.path.abspath(job.workdir), job.flags),
        job.after,
        [pair for pair in bound if pair[0] not in left_out],
    )


def claim(what, workdir):
    """Makes a folder this campaign's: writes its settings, beside those that are there.

    Raises ValueError if what is there was made by a campaign of other settings.
    Trainings, optimizees and seeds may be added, and left out.
    """
    path = pathlib.Path(workdir) / campaign.SETTINGS_FILE
    settings, reached = _settings(what)
    mine = json.loads(json.dumps(settings))
    with files.locked(path.with_name(f".{path.name}")):
        try:
            there = json.loads(path.read_text("utf-8")) if path.is_file() else {}
            different = [
                *_differences(there.get("evaluation", {}), mine["evaluation"]),
                *_differences(
                    _reaching(there.get("trainings", {}), reached), mine["trainings"]
                ),
            ]
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}). It says how all that lies beside it "
                "was made: remove it if that is what this call says."
            ) from error
        if different:
            raise ValueError(
                f"{workdir} holds a campaign of other settings. Those that differ:\n  "
                + "\n  ".join(different)
                + "\nGive another workdir, or the same settings to continue that one."
            )
        files.write_json(
            path, {part: {**there.get(part, {}), **mine[part]} for part in mine}
        )


def _differences(there, here):
    """Returns a line for each setting that differs in what both have."""
    both = there.keys() & here.keys()
    return differences({k: there[k] for k in both}, {k: here[k] for k in both})


def _settings(what):
    """Returns what changes the results of a campaign, by what it is of.

    Beside it, for each training, the selectors that its bindings reach.
    """
    trainings, reached = {}, {}
    for label in what.trainings:
        bindings.parse(*campaign.of_training(what, label))
        trainings[label], reached[label] = (
            _bound_lines(),
            references.reached("amalgamate"),
        )
    bindings.parse(what.gin_files, what.gin_bindings)
    terms = {name: repr(bindings.bound(name, "evaluate")) for name in EVALUATED}
    told = {"evaluation": {**_bound_lines(), **terms}}
    return {"trainings": _reaching(trainings, reached), **told}, reached


def _reaching(trainings, reached):
    """Returns label → lines, without those that change nothing of the training.

    An optimizee of evaluations may be bound beside it.
    """
    return {
        label: {k: v for k, v in lines.items() if references.is_of(k, reached[label])}
        for label, lines in trainings.items()
        if label in reached
    }


def _bound_lines():
    """Returns name → value of what is bound and changes a training or an optimizee."""
    lines: list[str] = []
    for line in gin.config_str().splitlines():
        if line[:1].isspace():  # a long value goes on
            lines[-1] += " " + line.strip()
        elif line and not line.startswith("#"):
            lines.append(line)
    pairs = (line.partition(" = ")[::2] for line in lines)
    return {
        name: value
        for name, value in pairs
        if name not in ELSEWHERE and not name.startswith(campaign.OF_EVALUATIONS)
    }


def optimizees():
    """Returns references to the optimizees of an evaluation; none is made."""
    tasks = gin.get_bindings("evaluate", resolve_references=False)["tasks"]
    if isinstance(tasks, list | tuple):
        return tasks
    meant = references.meant(tasks)  # a macro that stands for several, or for one
    return meant if isinstance(meant, list | tuple) else [tasks]


def _name_of(optimizee):
    """Returns the name of an optimizee that a .gin file refers to."""
    selector = getattr(references.meant(optimizee), "scoped_selector", None)
    if selector is None:
        raise ValueError(
            "A campaign's evaluate.tasks are references to optimizees (%Train, "
            f"@tasks.mlp()); received {optimizee!r}."
        )
    try:
        return gin.query_parameter(f"{selector}.name")
    except ValueError as error:
        raise ValueError(
            f"A campaign needs the names of its optimizees; bind {selector}.name."
        ) from error
