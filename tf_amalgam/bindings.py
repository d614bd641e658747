"""Gin at the edge: what a .gin file can configure.

`recipe` and `references` import gin, too.
"""

import contextlib
import copy
import inspect
import logging
import os
import pathlib
import tokenize
from collections.abc import Callable
from typing import Any

import gin

from tf_amalgam import (
    campaign,
    cluster,
    data,
    evaluation,
    experiment,
    files,
    jobs,
    launchers,
    plan,
    processes,
    references,
    replicates,
    rules,
    tasks,
    tuning,
    workers,
)
from tf_amalgam.checks import unknown
from tf_amalgam.curriculum import Stage
from tf_amalgam.lineup import KerasOptimizer
from tf_amalgam.perturbation import Perturbation
from tf_amalgam.workdir import (
    CONFIG_FILE,
    MADE_FILE,
    OPERATIVE_FILE,
    SETTINGS_FILE,
    Busy,
)

# Name in .gin files → what it makes. Signatures are closed, so that a misspelt
# parameter is an error.
CONFIGURABLES: dict[str, Callable[..., Any]] = {
    "amalgamate": experiment.amalgamate,
    "evaluate": evaluation.evaluate,
    "KerasOptimizer": KerasOptimizer,
    "Stage": Stage,
    "Perturbation": Perturbation,
    "grid_search": tuning.grid_search,
    "campaign": campaign.campaign,
    "tasks.conv": tasks.conv,
    "tasks.mlp": tasks.mlp,
    "tasks.private": tasks.private,
    "tasks.quadratic": tasks.quadratic,
    "tasks.rastrigin": tasks.rastrigin,
    "tasks.resnet": tasks.resnet,
    "load_dataset": data.load_dataset,
    **{f"rules.{name}": cls for name, cls in rules.RULES.items()},
}

# What gin raises for what it cannot read.
UNREADABLE = (
    *(ValueError, AttributeError, SyntaxError, OSError, ImportError),
    tokenize.TokenError,
)
_TRAIN = "--gin_file=gin_configs/tasks/train.gin"
_FORM = "Add a form, say --gin_file=gin_configs/forms/cpu.gin."

# Function → its parameter without which there is nothing to do: what it is, and where
# to get one.
NEEDED = {
    "amalgamate": {"task": ("optimizee is", _FORM)},
    "evaluate": {
        "tasks": (
            "optimizees are",
            "Add an evaluation, say "
            "--gin_file=gin_configs/experiments/evaluate_cpu.gin, or an optimizee: "
            f"{_TRAIN} --gin_bindings='evaluate.tasks = [%Train]'.",
        ),
        "optimizers": (
            "optimizers are",
            "Add some, say --gin_bindings='evaluate.optimizers = [\"adam\"]'.",
        ),
    },
    "grid_search": {
        "task": (
            "optimizee is",
            f"Add one: {_TRAIN} --gin_bindings='grid_search.task = %Train'.",
        )
    },
    "campaign": {
        parameter: (
            what,
            "Add a campaign, --gin_file=gin_configs/experiments/paper_full.gin say.",
        )
        for parameter, what in (
            ("trainings", "trainings are"),
            ("form", "form is"),
        )
    },
}


def _register(selector, function):
    module, _, name = selector.rpartition(".")
    return gin.external_configurable(function, name=name, module=module or None)


REGISTERED = {name: _register(name, made) for name, made in CONFIGURABLES.items()}
amalgamate = REGISTERED["amalgamate"]


def parse(gin_files, gin_bindings=()):
    """Reads .gin files and bindings, and locks the configuration.

    Paths are taken as they are, then relative to the installed package, so that
    `gin_configs/experiments/…` works anywhere.

    Raises:
        FileNotFoundError: for a .gin file that does not exist.
        ValueError: for a name or parameter that does not exist (the known ones are
            listed), or a line that cannot be read.
    """
    import tf_amalgam.gin_configs as packaged

    root = pathlib.Path(packaged.__file__).parent.parent
    gin.clear_config()
    gin.add_config_file_search_path(str(root))
    for name in gin_files:
        if not any(path.is_file() for path in (pathlib.Path(name), root / name)):
            known = sorted(
                str(path.relative_to(root))
                for path in root.glob("gin_configs/**/*.gin")
            )
            raise FileNotFoundError(unknown("gin file", str(name), known))
    try:
        with _looking_quietly():
            gin.parse_config_files_and_bindings(
                [str(name) for name in gin_files],
                list(gin_bindings),
                skip_unknown=False,
            )
    except UNREADABLE as error:
        raise ValueError(
            f"The gin configuration cannot be read: {error}\n"
            f"Known names: {', '.join(CONFIGURABLES)}. Their parameters are those of "
            "the functions and classes of the same name."
        ) from error


def check_used(names, lines, configuration=None):
    """Raises ValueError for a parameter bound without its function's name.

    Warns of what nothing refers to; see `references.check_used`.

    Args:
        names: of the functions that are called.
        lines, configuration: as there.
    """
    called = {name: _parameters(name) for name in names}
    references.check_used(called, lines, configuration)


def _parameters(name):
    return inspect.signature(CONFIGURABLES[name]).parameters


@contextlib.contextmanager
def _looking_quietly():
    """Within it gin does not report each place where an included file is not."""
    kept = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(kept)


def check_given(name, but=()):
    """Raises ValueError if the configuration lacks what a function cannot do without.

    It says what is missing, and which file has it.

    Args:
        name: of the function.
        but: parameters that it is given otherwise.
    """
    bound = gin.get_bindings(name, resolve_references=False)
    missing = [
        f"No {what} given: nothing binds {name}.{parameter}. {remedy}"
        for parameter, (what, remedy) in NEEDED.get(name, {}).items()
        if parameter not in bound and parameter not in but
    ]
    if missing:
        raise ValueError(" ".join(missing))


def run(
    name,
    gin_files,
    gin_bindings,
    workdir,
    write_config=True,
    checked=processes.CHECKED in os.environ,
    **others,
):
    """Parses the configuration and calls one of the functions above with it.

    The configuration is written into `workdir`, what it was put together from, and the
    operative one (with every default), also when the run was interrupted, unless these
    are there: the folder may then be another experiment's. Records of an evaluation
    each hold the operative one.

    Args:
        name: of the function.
        gin_files, gin_bindings, workdir: what it runs, and where.
        write_config: whether to write these files; a process that does a share of
            another's work leaves that one's.
        checked: whether the bindings are a part of what has been checked as a whole.
        **others: arguments that no configuration holds.
    """
    parse(gin_files, gin_bindings)
    check_given(name)
    if not checked:
        check_used([name], gin_bindings)
    if name == "amalgamate" and bound("strategy") == "multi_worker":
        # Before an optimizee is made. The chief alone writes.
        write_config &= cluster.join_cluster().extended.should_checkpoint
    workdir = pathlib.Path(workdir)
    configuration = gin.config_str()
    # Called by `evaluate`, when all that it is given has been made.
    kept = {"configuration": gin.operative_config_str} if name == "evaluate" else {}

    def explain():
        if not write_config or not workdir.is_dir():
            return
        made = {"gin_files": gin_files, "gin_bindings": gin_bindings}
        told = {key: [str(one) for one in given] for key, given in made.items()}
        files.write_json(workdir / MADE_FILE, told)
        files.write_text(workdir / CONFIG_FILE, configuration)
        files.write_text(workdir / OPERATIVE_FILE, gin.operative_config_str())

    try:
        result = REGISTERED[name](workdir=workdir, **kept, **others)
    except (ValueError, OSError, ImportError, Busy) as error:
        # Refused, or it could not begin. What gin raises for an OSError has its number
        # by attribute alone, where nobody looks.
        asked = getattr(type(error), "__getattr__", None)
        if asked and isinstance(error, OSError):
            error.errno = asked(error, "errno")
        raise
    except BaseException:
        # It was interrupted, has diverged, was out of memory: perhaps before it knew
        # whose the folder is.
        known = name != "amalgamate" or (workdir / SETTINGS_FILE).is_file()
        if known and not (workdir / MADE_FILE).is_file():
            explain()
        raise
    explain()
    return result


def run_replicates(
    count,
    gin_files,
    gin_bindings,
    workdir,
    on=None,
    command="",
    cpus=2.0,
    gpus=0.0,
    checked=False,
):
    """Runs `amalgamate` once for each replicate (see `replicates.run_replicates`)."""
    parse(gin_files, gin_bindings)  # mistakes show before any work
    check_given("amalgamate")
    if not checked:
        check_used(["amalgamate"], gin_bindings)
    if bound("strategy") == "multi_worker":
        raise ValueError(
            "Replicates cannot share one cluster of workers; leave --replicates out, "
            "and give each its own workdir and amalgamate.replicate."
        )

    def one(gin_files, gin_bindings, folder):
        run("amalgamate", gin_files, gin_bindings, folder, checked=True)

    return replicates.run_replicates(
        count,
        gin_files,
        gin_bindings,
        workdir,
        one,
        on,
        seed=bound("seed"),
        command=command,
        configuration=gin.config_str(),
        cpus=cpus,
        gpus=gpus,
    )


def train_zoo(
    only,
    gin_files,
    gin_bindings,
    workdir,
    count=0,
    on=None,
    into=None,
    command="",
    cpus=2.0,
    gpus=0.0,
):
    """Trains entries of the plan in a form (see `plan.train`).

    Args:
        only: names of entries; all where it is empty.
        gin_files, gin_bindings: the form, and what wins over it.
        workdir: folder of a folder for each run.
        count: replicates of each; 0 is one plain run.
        on: a launcher of the replicates; None runs one after another here.
        into: folder to export finished ones to, or None.
        command: what was typed, for the READMEs of replicates.
        cpus, gpus: what each replicate takes up, for the launcher.
    """
    texts = []
    for entry in plan.chosen(only):  # mistakes show before any work
        parse([*gin_files, entry.gin_file], gin_bindings)
        check_given("amalgamate")
        texts.append(gin.config_str())
    check_used(["amalgamate"], gin_bindings, "\n".join(texts))

    def one(experiment, folder):
        given = ([*gin_files, experiment], gin_bindings, folder)
        if count:
            run_replicates(count, *given, on, command, cpus, gpus, checked=True)
        else:
            run("amalgamate", *given, checked=True)

    plan.train(only, workdir, one, into)


def bound(parameter, name="amalgamate"):
    """Returns what a function, `amalgamate` say, will be given as this parameter."""
    default = _parameters(name)[parameter].default
    bound = gin.get_bindings(name, resolve_references=False)
    # The copy of a macro is what it stands for.
    return copy.deepcopy(bound.get(parameter, default))


def run_evaluation(
    gin_files,
    gin_bindings,
    workdir,
    parallel=1,
    worker_of=None,
    worker_since=None,
    report=True,
):
    """Runs `evaluate`, divided among so many processes; returns the records.

    With one it runs here. With more, these do the runs while this one shows the
    progress of all (see `workers.Workers`); they are told whose workers they are, and
    since when.

    Args:
        gin_files, gin_bindings, workdir: what it runs, and where.
        parallel: processes.
        worker_of, worker_since: of a worker.
        report: whether to write the configuration, and what is made of all records.
    """
    given = ("evaluate", gin_files, gin_bindings, workdir)
    if worker_of is not None:
        share = workers.share(worker_of, worker_since)
        return run(*given, write_config=False, **share)
    written = _written(report)
    if parallel == 1:
        return run(*given, **written)
    crew = workers.Workers(parallel, gin_files, gin_bindings, workdir)
    try:
        return run(*given, limit=0, meanwhile=crew.work, **written)
    finally:
        crew.stop()


def _written(report):
    """Returns the arguments of `run` that say whether `evaluate` makes its files."""
    # Where it does, a .gin file may still say otherwise.
    return {} if report else {"write_config": False, "write_report": False}


def run_part(name, gin_files, gin_bindings, workdir, only, report=True):
    """Runs `evaluate` or `grid_search` for some records alone; as `run`.

    Args:
        name: of the function.
        gin_files, gin_bindings, workdir: what it runs, and where.
        only: patterns of the records, see `evaluate`.
        report: whether to show progress, write the configuration and, of an evaluation,
            what is made of all records; else the process that started this one does.
    """
    shown = {"progress": report}
    if name == "evaluate":
        shown["write_report"] = report
    given = (name, gin_files, gin_bindings, workdir)
    return run(*given, write_config=report, only=only, **shown)


def run_launched(name, gin_files, gin_bindings, workdir, on, cpus, gpus, report=True):
    """Runs `evaluate` or `grid_search`, each record a job of its own; as `run`.

    Args:
        name: of the function.
        gin_files, gin_bindings, workdir: what it runs, and where.
        on: where the jobs run, a launcher.
        cpus, gpus: what each takes up.
        report: of `evaluate`, as of `run_evaluation`.
    """

    def launch(paths):
        several = [
            jobs.Job(
                path.removesuffix(".json"),
                name,
                tuple(map(str, gin_files)),
                tuple(gin_bindings),
                str(workdir),
                flags=(f"--only={path}", "--noreport"),
                makes=(str(pathlib.Path(workdir) / path),),
                cpus=cpus,
                gpus=gpus,
            )
            for path in paths
        ]
        jobs.write(several, pathlib.Path(workdir) / jobs.FILE)
        failed = launchers.run(several, on, workdir, description=name)
        launchers.check(failed, several, workdir)

    written = _written(report)
    return run(name, gin_files, gin_bindings, workdir, launch=launch, **written)
