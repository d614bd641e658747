"""The optimizers that ship, or are to: what trains each, how far each has come."""

import dataclasses
import functools
import logging
import pathlib
import tomllib

from tf_amalgam import exporting, files, records, replicates, saved
from tf_amalgam.checks import unknown
from tf_amalgam.sweep import FATAL

PLAN = saved.ZOO / "plan.toml"
LICENCE = "Apache-2.0"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One optimizer of the plan.

    Attributes:
        name: by which `load` will know it.
        run: name of the folder that it comes out of.
        experiment: that trains it, a file of `gin_configs/experiments`.
        part: folder of the run that holds it; empty for the student.
    """

    name: str
    run: str
    experiment: str
    part: str = ""

    @property
    def gin_file(self) -> str:
        """The experiment's file."""
        return f"gin_configs/experiments/{self.experiment}.gin"


@functools.cache
def entries() -> dict[str, Entry]:
    """Returns the plan, most important first, by name."""
    told = tomllib.loads(PLAN.read_text("utf-8"))
    found = {}
    for name, entry in told.items():
        run = entry.get("of", name)
        experiment = told[run]["experiment"]
        found[name] = Entry(name, run, experiment, entry.get("part", ""))
    return found


def chosen(names) -> list[Entry]:
    """Returns the entries of some names, in the plan's order; all where none is given.

    Raises:
        ValueError: for a name that is not in the plan; the known ones are listed.
    """
    for name in names:
        if name not in entries():
            raise ValueError(unknown("entry of the plan", name, tuple(entries())))
    return [e for e in entries().values() if not names or e.name in names]


def train(names, workdir, one, into=None):
    """Trains what is chosen, one after another; finished ones are left as they are.

    The same call continues an interrupted one. What diverges, or cannot be trained (in
    this form, or in a folder of another experiment), does not hold up the others.

    Args:
        names: of entries; an empty sequence takes all.
        workdir: folder of a folder for each run.
        one: `(gin file of the experiment, folder)` trains one.
        into: folder to export finished ones to, with their cards (of replicates the
            best, as soon as one has finished); None exports none.

    Raises:
        ValueError: for an unknown name, before any work.
        OSError: for a folder `into` that cannot be written, before any work; where the
            disk is full.
        RuntimeError: naming those that failed, after all others have ended.
    """
    workdir = pathlib.Path(workdir)
    failed, refused, unshipped = [], [], []
    wanted = chosen(names)
    if into is not None:
        into = pathlib.Path(into).expanduser()
        files.check_writable(into)
    for run in dict.fromkeys(entry.run for entry in wanted):
        try:
            one(entries()[run].gin_file, workdir / run)
        except Exception as error:
            usual = isinstance(error, (RuntimeError, ValueError, OSError, ImportError))
            logging.error("%s: %s", run, error, exc_info=not usual)
            if isinstance(error, OSError) and error.errno in FATAL:
                raise  # the others would meet it, too
            # What is there is not of this plan, or a package is not there.
            if isinstance(error, (ValueError, ImportError)):
                refused.append(run)
                continue
            failed.append(run)
        if into is None or (run in failed and not _has_finished(workdir / run)):
            continue
        unshipped += _shipped([e for e in wanted if e.run == run], workdir, into)
    fates = {
        "failed": (
            failed,
            "the same command continues these from their last checkpoint, where what "
            "diverged will do so again",
        ),
        "could not be trained": (
            refused,
            "what was wrong stands above, and the same command will meet it again",
        ),
        "are not exported": (unshipped, "what was wrong stands above"),
    }
    told = [
        f"These {what}: {', '.join(names)}; {then}."
        for what, (names, then) in fates.items()
        if names
    ]
    if told:
        raise RuntimeError(" ".join([*told, "All others have ended."]))


def _shipped(several, workdir, into):
    """Writes entries with their cards into a folder; returns names of the others."""
    left = []
    for entry in several:
        try:
            ship(entry, workdir, into)
        except Exception as error:
            logging.error("%s cannot be exported: %s", entry.name, error)
            left.append(entry.name)
    return left


def _has_finished(run):
    """Whether one of the replicates in a folder has, whatever became of the others."""
    return any(row["finished"] for row in replicates.fates(run))


def ship(entry, workdir, into):
    """Writes an entry with its card into a folder; returns the card."""
    output = pathlib.Path(into) / f"{entry.name}.npz"
    run = pathlib.Path(workdir) / entry.run
    return exporting.export(run, output, part=entry.part, licence=LICENCE)


def standing(workdir) -> str:
    """Returns a table in Markdown: how far each entry has come."""
    rows = [("entry", "experiment", "standing")]
    for entry in entries().values():
        told = _standing(pathlib.Path(workdir) / entry.run, entry.part)
        rows.append((entry.name, entry.experiment, told))
    return records.markdown(rows)


def _standing(run, part):
    folders = list(replicates.begun(run).values()) or [run]
    told = [_progress(folder / part) for folder in folders]
    return "; ".join(told)


def _progress(folder):
    if not (folder / saved.STUDENT_FILE).is_file():
        return "not begun"
    try:
        told = replicates.fate(folder)
    except (ValueError, OSError, KeyError) as error:
        return f"cannot be read ({error})"
    standing = "finished" if told["finished"] else "under way"
    best = told["best_validation"]
    return f"{standing}, {told['meta_updates']} meta-updates, best {best:+.2f}"
