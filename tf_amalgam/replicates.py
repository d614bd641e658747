"""Runs that differ in nothing but their randomness: the paper trains 8 of each."""

import json
import logging
import pathlib
import traceback

from tf_amalgam import files, jobs, launchers, plots, saved
from tf_amalgam.checks import check_whole, first_of
from tf_amalgam.engines import OF_ANOTHER
from tf_amalgam.numerics import derive_seed
from tf_amalgam.sweep import FATAL
from tf_amalgam.workdir import (
    CONFIG_FILE,
    CURVES_FILE,
    README_FILE,
    REPLICATE,
    SETTINGS_FILE,
    VALIDATION_FILE,
    AnotherExperiment,
    begun,
    check_no_evaluation,
    check_readme,
)

SUMMARY_FILE = "replicates.csv"
PLOT_FILE = "replicates.png"
COMMANDS_FILE = "commands.json"
LOG_FILE = "log.txt"

README = """# {count} replicates of one experiment

Each folder `replicate-…` is a whole run of its own (see its README.md); they differ in
nothing but the randomness that comes from the root seed, {seed}, and the replicate's
number. Made by the command below, which also continues what was interrupted:

```
{commands}
```

`{config}` is the configuration, `{summary}` says what became of each, `{plot}`
shows their validations, `{jobs}` has the runs as data, one a line.

| replicate | seed derived from {seed} and its number |
|---|---|
{seeds}
"""


def run_replicates(
    count,
    gin_files,
    gin_bindings,
    workdir,
    one,
    on=None,
    seed=0,
    command="",
    configuration="",
    cpus=2.0,
    gpus=0.0,
):
    """Runs `amalgamate` under gin once for each replicate; returns their folders.

    Args:
        count: replicates; number i lies in `workdir/replicate-i`.
        gin_files, gin_bindings: as for one run.
        workdir: folder of all.
        one: `(gin_files, gin_bindings, folder)` does one run in this process.
        on: a launcher (see `launchers`) of them as processes of their own, with their
            output in `log.txt`; None runs them here, one after another.
        seed: root of the randomness of all.
        command: what was typed, for the README.
        configuration: text of the gin configuration, kept as `config.gin`.
        cpus, gpus: what each takes up, for the launcher.

    Raises:
        ValueError: for a count below 1; if the folder holds a plain run, a README.md
            of somebody else, or replicates of another experiment.
        RuntimeError: naming the replicates that failed, after all others have ended.
        KeyboardInterrupt: on Ctrl-C, after every run has written a checkpoint.
    """
    check_whole("replicates", count, 1)
    workdir = pathlib.Path(workdir).expanduser()
    there = begun(workdir)

    def job(i):
        folder = workdir / f"{REPLICATE}{i}"
        return jobs.Job(
            folder.name,
            "amalgamate",
            tuple(map(str, gin_files)),
            (*gin_bindings, f"amalgamate.replicate = {i}"),
            str(folder),
            makes=(str(folder / CURVES_FILE),),
            log=str(folder / LOG_FILE),
            cpus=cpus,
            gpus=gpus,
            always=True,
        )

    def explain():
        _explain(workdir, count, seed, command, configuration)
        every = sorted({*range(count), *begun(workdir)})
        jobs.write(map(job, every), workdir / jobs.FILE)

    # Those that were begun come first: another experiment shows before it adds to them.
    wanted = [job(i) for i in sorted(range(count), key=lambda i: i not in there)]

    _check_seeds(workdir, seed)
    if not there:
        if (workdir / SETTINGS_FILE).is_file():
            raise AnotherExperiment(
                f"{workdir} holds a plain run. Give another workdir, or leave "
                "--replicates out to go on with that run."
            )
        check_readme(workdir)
        check_no_evaluation(workdir)
        # Else what made a folder stays written there until this has done something in
        # it: it may be another experiment, which every replicate then refuses.
        explain()
    try:
        if on is None:
            failed = _in_turn(wanted, one, explain)
        else:
            failed = launchers.run(
                wanted,
                on,
                workdir,
                description="replicates",
                ended=lambda _, e: e or explain(),
            )
    finally:
        summarize(workdir)
    if others := sorted(n for n, error in failed.items() if OF_ANOTHER in error):
        raise AnotherExperiment(
            f"{first_of(others)} of {workdir} cannot be gone on with: {OF_ANOTHER} ("
            f"{workdir / others[0] / LOG_FILE} says what differs). Give another "
            f"workdir, or the same settings.{_told(failed, others)}"
        )
    if failed:
        told = ", ".join(f"{name} (see {workdir / name / LOG_FILE})" for name in failed)
        raise RuntimeError(
            f"{len(failed)} of {count} replicates failed: {told}. The first: "
            f"{next(iter(failed.values()))}. The same command runs these again."
        )
    return [workdir / f"{REPLICATE}{i}" for i in range(count)]


def _told(failed, but):
    """Returns a sentence on the replicates that failed, but for some."""
    rest = [f"{n}: {error}" for n, error in failed.items() if n not in but]
    return f" (Others failed, too: {first_of(rest, separator='; ')}.)" if rest else ""


def students(workdir) -> dict[int, pathlib.Path]:
    """Returns the folder of each replicate that has a student, by its number."""
    return begun(workdir, saved.STUDENT_FILE)


def fates(workdir, part="") -> list[dict]:
    """Returns what became of each replicate that has a student, by number.

    What cannot be read is left out with a warning.

    Args:
        workdir: folder of the replicates.
        part: folder inside each to look at instead.
    """
    rows = []
    for number, folder in students(workdir).items():
        try:
            rows.append({"replicate": number, **fate(folder / part)})
        except (ValueError, OSError, KeyError) as error:
            logging.warning("%s is left out of the summary: %s", folder.name, error)
    return rows


def summarize(workdir):
    """Writes a line for each replicate with a student, and draws their validations."""
    if not students(workdir):
        return
    # Of several programs that end together the last one writes what all have done.
    with files.locked(workdir / f".{SUMMARY_FILE}"):
        _summarize(workdir, fates(workdir))


def _summarize(workdir, rows):
    if not rows:
        return
    curves = {}
    for row in rows:
        folder = students(workdir)[row["replicate"]]
        validations = files.read_csv(folder / VALIDATION_FILE)
        curves[folder.name] = [(row["update"], row["score"]) for row in validations]
    files.write_text(workdir / SUMMARY_FILE, files.as_csv(rows))
    plots.validations(curves, workdir / PLOT_FILE)


def _check_seeds(workdir, seed):
    """Raises AnotherExperiment if a replicate's seed does not come from this root."""
    for number, folder in begun(workdir).items():
        try:
            found = json.loads((folder / SETTINGS_FILE).read_text("utf-8"))["seed"]
        except (ValueError, KeyError):
            continue  # damaged: it will say so itself
        if found != (derived := derive_seed(seed, "replicate", number)):
            raise AnotherExperiment(
                f"{folder} has the seed {found}, but the root seed {seed} gives it "
                f"{derived}. Give another workdir, or the root seed of these "
                "replicates."
            )


def fate(folder) -> dict:
    """Returns what became of a run.

    Raises:
        ValueError, OSError, KeyError: where its files are missing or damaged.
    """
    _, _, header = saved.read(folder)
    about, validations = header["about"], files.read_csv(folder / VALIDATION_FILE)
    return {
        "seed": about["seed"],
        "meta_updates": about["meta_updates"],
        "skipped": about["meta_updates_skipped"],
        "best_validation": about["best_validation"],
        # One that was stopped in its first validation has none.
        "stage": validations[-1]["stage"] if validations else 0,
        "finished": bool(validations) and validations[-1]["then"] == "finish",
        "sha256": header["sha256"],
    }


def _explain(workdir, count, seed, command, configuration):
    """Writes README and configuration; what earlier calls made stays in them."""
    file, there = workdir / COMMANDS_FILE, begun(workdir)
    commands = json.loads(file.read_text("utf-8")) if there and file.is_file() else []
    commands += [command] if command and command not in commands else []
    seeds = {i: derive_seed(seed, "replicate", i) for i in {*range(count), *there}}
    told = README.format(
        count=len(seeds),
        seed=seed,
        commands="\n".join(commands) or "(a call in Python)",
        config=CONFIG_FILE,
        summary=SUMMARY_FILE,
        plot=PLOT_FILE,
        jobs=jobs.FILE,
        seeds="\n".join(f"| {i} | {seeds[i]} |" for i in sorted(seeds)),
    )
    files.write_json(file, commands)
    files.write_text(workdir / CONFIG_FILE, configuration)
    files.write_text(workdir / README_FILE, told)


def _in_turn(several, one, succeeded):
    """Runs one after another in this process; returns why some failed, by name.

    Raises:
        ValueError, OSError: at once for what is wrong with the call itself: another
            experiment's folder, or an error before a replicate has begun; for a full
            disk.
    """
    failed = {}
    for job in several:
        folder = pathlib.Path(job.workdir)
        try:
            one(list(job.gin_files), list(job.gin_bindings), folder)
        except AnotherExperiment:
            raise
        except Exception as error:
            mistake = isinstance(error, (ValueError, OSError))
            full = isinstance(error, OSError) and error.errno in FATAL
            if full or (mistake and not (folder / SETTINGS_FILE).is_file()):
                raise
            logging.error("%s failed: %s", job.name, error)
            folder.mkdir(parents=True, exist_ok=True)
            with open(job.log, "a", encoding="utf-8") as log:
                traceback.print_exc(file=log)
            failed[job.name] = str(error)
        else:
            succeeded()
    return failed
