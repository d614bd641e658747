"""Runs that differ in nothing but their randomness: the paper trains 8 of each."""

import csv
import io
import json
import pathlib
import subprocess
import time

from tf_amalgam import files, plots, processes, saved
from tf_amalgam.workdir import VALIDATION_FILE, read_csv

SUMMARY_FILE = "replicates.csv"
PLOT_FILE = "replicates.png"
LOG_FILE = "log.txt"
FOLDER = "replicate-"  # and the replicate's number

README = """# {count} replicates of one experiment

Each folder `replicate-…` is a whole run of its own (see its README.md); they differ in
nothing but the randomness that comes from the seed and the replicate's number. The
command that made this folder continues what was interrupted.

`{summary}` says what became of each, `{plot}` shows their validations.
"""


def run_replicates(count, gin_files, gin_bindings, workdir, parallel=1, one=None):
    """Runs `amalgamate` under gin once for each replicate; returns their folders.

    Args:
        count: replicates; number i lies in `workdir/replicate-i`.
        gin_files, gin_bindings: as for one run.
        workdir: folder of all.
        parallel: runs at the same time, each a process of its own with its output
            in `log.txt`; 1 runs them here, one after another.
        one: `(gin_files, gin_bindings, folder)` does one run in this process.

    Raises:
        ValueError: for a count or parallel below 1.
        RuntimeError: naming the replicates that failed, after all others have ended.
        KeyboardInterrupt: on Ctrl-C, after every run has written a checkpoint.
    """
    for name, value in (("replicates", count), ("parallel", parallel)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a whole number from 1, received {value}.")
    workdir = pathlib.Path(workdir)
    folders = [workdir / f"{FOLDER}{i}" for i in range(count)]
    told = README.format(count=count, summary=SUMMARY_FILE, plot=PLOT_FILE)
    files.write_text(workdir / "README.md", told)
    jobs = [
        (folder, [*gin_bindings, f"amalgamate.replicate = {i}"])
        for i, folder in enumerate(folders)
    ]
    try:
        if parallel == 1:
            for folder, bindings in jobs:
                one(gin_files, bindings, folder)
        else:
            _side_by_side(jobs, gin_files, parallel)
    finally:
        summarize(workdir, folders)
    return folders


def students(workdir) -> dict[int, pathlib.Path]:
    """Returns the folder of each replicate that has a student, by its number."""
    found = pathlib.Path(workdir).glob(f"{FOLDER}*/{saved.STUDENT_FILE}")
    numbered = {int(path.parent.name.removeprefix(FOLDER)): path for path in found}
    return {number: numbered[number].parent for number in sorted(numbered)}


def summarize(workdir, folders):
    """Writes a line for each replicate that has begun, and draws their validations."""
    rows, curves = [], {}
    for i, folder in enumerate(folders):
        if not (folder / saved.STUDENT_FILE).is_file():
            continue
        _, _, header = saved.read(folder)
        about, validations = header["about"], read_csv(folder / VALIDATION_FILE)
        rows.append(
            {
                "replicate": i,
                "seed": about["seed"],
                "meta_updates": about["meta_updates"],
                "skipped": about["meta_updates_skipped"],
                "best_validation": about["best_validation"],
                "finished": validations[-1]["then"] == "finish",
                "sha256": header["sha256"],
            }
        )
        curves[folder.name] = [(row["update"], row["score"]) for row in validations]
    if not rows:
        return
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    files.write_text(workdir / SUMMARY_FILE, text.getvalue())
    plots.validations(curves, workdir / PLOT_FILE)


def _side_by_side(jobs, gin_files, parallel):
    waiting, failed = list(jobs), []
    running: dict[subprocess.Popen, pathlib.Path] = {}
    try:
        while waiting or running:
            while waiting and len(running) < parallel:
                folder, bindings = waiting.pop(0)
                log = folder / LOG_FILE
                process = processes.started(
                    "amalgamate", gin_files, bindings, folder, log
                )
                running[process] = folder
            for process in [p for p in running if p.poll() is not None]:
                folder = running.pop(process)
                if process.returncode:
                    failed.append(f"{folder.name} (see {folder / LOG_FILE})")
            time.sleep(0.2)
    except KeyboardInterrupt:
        processes.interrupt(running)
        raise
    if failed:
        raise RuntimeError(
            f"{len(failed)} of {len(jobs)} replicates failed: {', '.join(failed)}. The "
            "same command runs these again."
        )


def read_summary(workdir) -> list[dict]:
    """Returns the lines of `replicates.csv`, numbers as numbers."""
    rows = read_csv(pathlib.Path(workdir) / SUMMARY_FILE)
    return [{**row, "finished": json.loads(row["finished"].lower())} for row in rows]
