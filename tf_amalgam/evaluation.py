"""Every optimizee trained with every optimizer and seed, on equal terms."""

import contextlib
import fnmatch
import json
import pathlib

import numpy as np

from tf_amalgam import files, plots, records, terms
from tf_amalgam.checks import as_whole, check_whole, is_number, sequence, several
from tf_amalgam.lineup import labelled, lineup
from tf_amalgam.sweep import Job, sweep
from tf_amalgam.tasks.task import check_task
from tf_amalgam.trial import train_once
from tf_amalgam.workdir import check_no_training


def evaluate(
    optimizers,
    tasks,
    *,
    workdir,
    baselines=(),
    seeds=(0, 1, 2),
    epochs: int = 5,
    warmup_steps: int = 100,
    warmup_learning_rate: float = 0.01,
    preset: str = "paper",
    progress: bool = True,
    write_report: bool = True,
    configuration=None,
    only=None,
    launch=None,
    limit: int | None = None,
    meanwhile=None,
    halt=None,
    since: int | None = None,
) -> list[dict]:
    """Trains every optimizee with every optimizer and seed; returns the records.

    All optimizers get equal terms: per seed the same initial weights, the same
    order of minibatches and the same warm-up (Huang et al. 2022, B.3). Other replicates
    have others, so that evaluations of a student's replicates are independent, as the
    statistics need them (App. D.1). A run whose
    record exists is not run again, so an interrupted evaluation continues, and
    processes that are given the same folder divide the work.

    The noise of private optimizees is derived from the seeds too, to be repeated: their
    epsilon describes the mechanism, not a release (`private_model` has secret noise).

    Args:
        optimizers: dict of label → optimizer, or a sequence of optimizers with names
            of their own; names, paths, folders of replicates, rules, functions that
            return a Keras optimizer (see `lineup.lineup`).
        baselines: more of them, so that a .gin file can hold these and a binding the
            students.
        tasks: a `Task` or a sequence of them.
        workdir: folder of the records; `table.md` and `curves.png` are made from
            them.
        seeds: whole numbers, one evaluation each of every replicate.
        epochs: passes over the training data, the warm-up's steps included.
        warmup_steps, warmup_learning_rate: the warm-up of every optimizer.
        preset: hyperparameters of analytic optimizers given by name.
        progress: whether to show one progress bar over all runs.
        write_report: whether to make `table.md` and `curves.png`.
        configuration: text that every record keeps, or a function that returns it,
            called when all optimizers and optimizees have been made (the operative
            gin configuration, say). By default the arguments of this call.
        only: patterns (`"Train/*-seed0.json"`) of the records to make in this call, by
            their paths in `workdir`; None makes all.
        launch: a function that has records made elsewhere: `launch(paths)` gets those
            paths in `workdir` of all, also of those that are there, and returns when
            it is over.
        limit: at most so many runs in this call; None for all. TensorFlow keeps some
            megabytes of every run for the life of a process, so thousands are better
            shared by several (`amalgam-evaluate --parallel`).
        meanwhile, halt, since: see `sweep.sweep`.

    Returns:
        The records (dicts) by optimizee, seed, optimizer and replicate; with a limit,
        those that are there. Each has `task`, `optimizer`, `replicate`, `seed`;
        `curves` (`loss`, `val_loss` and other metrics: a value an epoch); `test` and
        `test_at_best` (metrics after the last epoch, and after the one that validates
        best); `diverged`; `step_milliseconds`; and more (see `trial.train_once`).
        `frames.runs(records)` is a data frame of them. Losses of single minibatches,
        of which a sweep has gigabytes, are read by
        `records.read_all(workdir, batch_losses=True)`.

    Raises:
        ValueError: for an unknown optimizer, two optimizees or optimizers of one
            name, trainings that are all warm-up, or a folder with a record of other
            terms, or with one, of whatever seed, of the same label or optimizee and
            other hyperparameters, weights, data or minibatches; before any work
            starts.
        RuntimeError: naming the runs that failed, after all others have ended.
        OSError: naming a record that cannot be written (a full disk, say).
    """
    tasks = [tasks] if not isinstance(tasks, (list, tuple)) else list(tasks)
    for task in tasks:
        check_task(task)
    names = [task.name for task in tasks]
    if len(set(names)) < len(names) or not names:
        raise ValueError(f"Optimizees need distinct names; received {names}.")
    workdir = pathlib.Path(workdir).expanduser()
    check_whole("epochs", epochs, 1)
    check_whole("limit", limit, 0, or_none=True)
    seeds = [as_whole("seeds", seed) for seed in several(seeds)]
    only = only if only is None else sequence("only", only)
    if not seeds:
        raise ValueError("evaluate needs at least one seed; received none.")
    for task in tasks:
        _check_length(task, epochs, warmup_steps)
    shared = {
        "epochs": epochs,
        "warmup_steps": warmup_steps,
        "warmup_learning_rate": warmup_learning_rate,
    }

    def wanted(label, replicate):
        """Whether a record of it is to be made."""
        several = [
            records.record_name(name, label, seed, replicate)
            for name in names
            for seed in seeds
        ]
        return any(fnmatch.filter(several, pattern) for pattern in only)

    contestants = lineup(
        {**labelled(baselines), **_others(optimizers, baselines)},
        preset=preset,
        warmup_steps=warmup_steps,
        warmup_learning_rate=warmup_learning_rate,
        wanted=None if only is None else wanted,
    )
    # All optimizers of a seed follow one another: an unfinished evaluation compares.
    runs = [
        (task, seed, one) for task in tasks for seed in seeds for one in contestants
    ]
    jobs = [
        Job(
            records.record_path(workdir, task.name, one.label, seed, one.replicate),
            f"{one.title} on {task.name}, seed {seed}",
        )
        for task, seed, one in runs
    ]
    if len({job.path for job in jobs}) < len(jobs):
        raise ValueError(
            "Two optimizers or optimizees would share records: their names "
            f"({', '.join({one.label for one in contestants})}; {', '.join(names)}) or "
            f"seeds ({seeds}) differ in nothing that a file name can hold."
        )
    if only is not None:
        places = _wanted([job.path for job in jobs], workdir, only)
        jobs, runs = ([every[i] for i in places] for every in (jobs, runs))
    labels = list(dict.fromkeys(one.label for one in contestants))
    named = {"tasks": names, "optimizers": labels, "seeds": seeds}
    configuration = _text(configuration, {**named, **shared, "preset": preset})
    told = {task.name: task.describe() for task in tasks}
    planned = {
        job.path: {
            "task": task.name,
            "optimizer": one.label,
            "replicate": one.replicate,
            "seed": seed,
            "kind": one.kind,
            "trained": one.trained,
            "settings": {**shared, "preset": preset, "task": told[task.name]},
            "optimizer_config": one.config,
            "configuration": configuration,
        }
        for job, (task, seed, one) in zip(jobs, runs, strict=True)
    }
    check_no_training(workdir)
    _check_records(workdir, planned, all_of_them=only is None)
    _agree_on_terms(workdir, shared)

    def run(index):
        path, (task, seed, one) = jobs[index].path, runs[index]
        found = train_once(one.make(), task, seed, epochs, one.replicate)
        records.write(path, {**found, **planned[path]})

    records.remember_order(
        workdir,
        names,
        [one.label for one in contestants],
        seeds=seeds,
        replicates={
            label: [one.replicate for one in contestants if one.label == label]
            for label in {one.label for one in contestants}
        },
    )
    _draw_samples(tasks, workdir)
    with _reporting(workdir, write_report):
        if launch:
            launch([str(job.path.relative_to(workdir)) for job in jobs])
        sweep(
            jobs,
            run,
            workdir,
            progress=progress,
            description="evaluating",
            limit=limit,
            meanwhile=meanwhile,
            halt=halt,
            since=since,
        )
    return [records.read(job.path) for job in jobs if job.path.is_file()]


def _wanted(paths, workdir, only):
    """Returns the places of the records that patterns are of."""
    names = [str(path.relative_to(workdir)) for path in paths]
    for pattern in only:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in names):
            raise ValueError(
                f"No run has a record like {pattern}. They are called like {names[0]}."
            )
    return [
        i
        for i, name in enumerate(names)
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in only)
    ]


def _text(configuration, arguments):
    """Returns what every record keeps: a text, its function's, or the arguments."""
    if configuration is None:
        lines = [f"evaluate.{name} = {value!r}" for name, value in arguments.items()]
        return "\n".join(["# Arguments of tf_amalgam.evaluate", *lines, ""])
    told = configuration() if callable(configuration) else configuration
    if not isinstance(told, str):
        raise ValueError(
            "configuration is a text that every record keeps, or a function that "
            f"returns one; received {told!r}."
        )
    return told


@contextlib.contextmanager
def _reporting(workdir, wanted):
    """Reports on all records in the end, also where a run failed: it costs no other."""
    failed = None
    try:
        yield
    except RuntimeError as error:
        failed = error
    if wanted and (found := records.read_all(workdir)):
        report(found, workdir)
    if failed:
        raise failed


def _others(optimizers, baselines):
    """Returns the optimizers by label, none of which may be a baseline's."""
    found, known = labelled(optimizers), labelled(baselines)
    if both := sorted(found.keys() & known.keys()):
        raise ValueError(
            f"Optimizers and baselines share a label: {', '.join(both)}. Pass a dict "
            "of label → optimizer."
        )
    return found


def _are_images(x):
    """Returns whether these are 8-bit images, grey or in colours."""
    return x.dtype == np.uint8 and x.ndim == 4 and x.shape[-1] in (1, 3, 4)


def _draw_samples(tasks, folder):
    """Draws examples of the data sets that are images; records alone do not say.

    What is drawn already stays.
    """
    images = {
        task.dataset.name: task.dataset.train.x[:8]
        for task in tasks
        if _are_images(task.dataset.train.x)
    }
    for name, examples in images.items():
        path = pathlib.Path(folder) / records.SAMPLES / f"{records.safe(name)}.png"
        if not path.is_file():
            plots.samples({name: examples}, path)


def report(found, folder):
    """Writes `table.md` and `curves.png` of these records into a folder."""
    folder = pathlib.Path(folder)
    files.write_text(folder / "table.md", records.table(found) + "\n")
    plots.learning_curves(found, folder / "curves.png")


def _agree_on_terms(workdir, shared):
    """Raises ValueError if other runs in the folder have other terms.

    Epochs and warm-up are one for all that is compared; what processes that start
    together agree on is on disk before any of them works.
    """
    folder = pathlib.Path(workdir)
    with files.locked(folder / files.LOCKS / "terms"):
        path = folder / records.TERMS_FILE
        there = _terms(path) if path.is_file() else shared
        if different := terms.differences(there, shared):
            raise ValueError(
                f"{folder} holds runs made with other settings ({_said(different)}). "
                "Use another workdir: what is compared needs equal terms."
            )
        files.write_json(path, shared)


def _terms(path):
    try:
        found = json.loads(path.read_text("utf-8"))
        return {str(name): value for name, value in found.items()}
    except (ValueError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}). It holds the terms of the runs beside "
            "it: remove it if they are those of this call."
        ) from error


def _check_length(task, epochs, warmup_steps):
    """Raises ValueError for trainings that the warm-up takes as a whole."""
    steps = epochs * (len(task.dataset.train.x) // task.batch_size)
    if is_number(warmup_steps) and steps <= warmup_steps:
        raise ValueError(
            f"{task.name}: epochs={epochs} are {steps} steps, and in the first "
            f"warmup_steps={warmup_steps} all optimizers are plain SGD, so that there "
            "would be nothing to compare. Give more epochs, or a shorter warm-up."
        )


# What a record is of.
NAMES = ("task", "optimizer", "replicate", "seed")


def _check_records(workdir, planned, all_of_them):
    """Raises ValueError if a record under a name of ours was made in another way.

    Whatever its seed: one label is one optimizer, one name is one optimizee.

    Args:
        workdir: folder of the records.
        planned: path → what the record to be made there will say.
        all_of_them: whether to look at all such records. A part of an evaluation looks
            at one of each, as they were held against one another when they were made:
            thousands of parts would read thousands of records each.
    """
    known = {
        s: said for one in planned.values() for s, said in terms.claims(one).items()
    }
    # Tuples are lists in a record.
    known = {subject: json.loads(json.dumps(said)) for subject, said in known.items()}
    tasks = {one["task"] for one in planned.values()}
    labels = {one["optimizer"] for one in planned.values()}
    paths = records.paths_of(workdir, tasks, labels)
    for path in paths if all_of_them else _few(paths, planned):
        record = records.read(path)
        subjects = terms.claims(record).items()
        pairs = [(there, known.get(subject, there)) for subject, there in subjects]
        if path in planned:  # names that differ may share a file
            mine = planned[path]
            pairs.append(({k: record[k] for k in NAMES}, {k: mine[k] for k in NAMES}))
        for there, here in pairs:
            if different := terms.differences(there, here):
                raise ValueError(
                    f"{path} was made with other settings ({_said(different)}). Use "
                    "another workdir or another name, or remove that record."
                )


def _few(paths, planned):
    """Returns planned paths, and one of each of their optimizees and replicates."""
    wanted = {subject for path in planned for subject in _subjects(path)}
    found = []
    for path in paths:
        new = wanted.intersection(_subjects(path))
        if new or path in planned:
            wanted -= new
            found.append(path)
    return found


def _subjects(path):
    """Returns what the path of a record is of."""
    return {("task", path.parent.name), ("optimizer", path.name.rpartition("-seed")[0])}


def _said(different):
    return "; ".join(f"{n}: {there} there, {here} here" for n, there, here in different)
