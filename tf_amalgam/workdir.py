"""The folder of one meta-training run: what is in it, and whose it is."""

import contextlib
import json
import logging
import pathlib
import time

from tf_amalgam import checkpoints, files, records, saved
from tf_amalgam.checks import first_of
from tf_amalgam.state import to_arrays, to_facts
from tf_amalgam.terms import LATER

SETTINGS_FILE = "settings.json"
CONFIG_FILE = "config.gin"
MADE_FILE = "made.json"
OPERATIVE_FILE = "operative_config.gin"
HISTORY_FILE = "history.csv"
VALIDATION_FILE = "validation.csv"
CURVES_FILE = "curves.png"
# How a difference in the optimizee's examples is told, and what it may come of.
DATA = "task.data:"
SHUFFLED = (
    "\n(Other examples, or the same in another order: a tf.data.Dataset that shuffles "
    "needs a seed.)"
)
UNTRAINED_FILE = "untrained.npz"
MIXING_FILE = "mixing.csv"
MIXING_PLOT = "mixing.png"
CHOICE_FOLDER = "choice"
TENSORBOARD_FOLDER = "tensorboard"
README_FILE = "README.md"
LOCK_FILE = ".lock"
CHECKPOINTS_FOLDER = "checkpoints"
# How long to wait for a folder that another process holds. NFS keeps the lock of a
# machine that is gone for 90 seconds, if its server has not been told otherwise.
LOCK_SECONDS = 100.0
CLAIM_FILE = ".claim"
REPLICATE = "replicate-"  # a replicate's folder: this and its number
# What replicates may differ in: number, seed, and which trained file they are given.
OF_A_REPLICATE = ("replicate", "seed", "sha256", "path")
ORIGIN = ("replicate", "root_seed")  # of the seed of a replicate

# What a README of ours begins with below its title: of a run, of replicates.
MARKS = (
    "One meta-training run of tf_amalgam.",
    "Each folder `replicate-…` is a whole run",
)

README = """# {title}

One meta-training run of tf_amalgam. The command that made this folder continues it
if it was interrupted; another experiment needs another folder.

| file | what it is |
|---|---|
| `student.npz` | the trained optimizer: `tf_amalgam.load("…/student.npz")` |
| `untrained.npz` | the same before meta-training, to compare it with |
| `settings.json` | every setting that changes the result |
| `config.gin`, `operative_config.gin` | the configuration, and every value it used |
| `made.json` | the gin files and bindings that it was put together from |
| `history.csv` | one line per meta-update: losses, distances, gradient norm |
| `validation.csv` | one line per validation, and what the curriculum did then |
| `curves.png` | both, drawn |
| `mixing.csv`, `mixing.png` | of a Choice rule: its mixing weights by step and tensor |
| `choice/` | the same files of the Choice rule that taught this student |
| `checkpoints/` | what a resume needs; can be removed after the end |
| `tensorboard/` | the same figures for TensorBoard, and a trace under `--profile` |
"""


class AnotherExperiment(ValueError):
    """A folder holds a run with other settings."""


class Busy(RuntimeError):
    """Another process trains in a folder."""


class Workdir:
    """Reads and writes one run's folder; every write is atomic.

    Raises:
        AnotherExperiment: if the folder holds a run with other settings (naming them),
            or, of a replicate's folder, one beside it does; if it holds an evaluation.
        ValueError: if its settings cannot be read.
    """

    def __init__(self, path, settings: dict):
        self.path = pathlib.Path(path).expanduser()
        self.settings = json.loads(json.dumps(settings))
        if not (self.path / SETTINGS_FILE).is_file():  # before anything is made
            check_readme(self.path)
            self._check_siblings()
            self._check_no_replicates()
            check_no_evaluation(self.path)
        with files.locked(self.path / CLAIM_FILE):
            self._claim()

    def _claim(self):
        file = self.path / SETTINGS_FILE
        if not file.is_file():
            # The settings last: they are what a folder is known by.
            files.write_text(self.path / README_FILE, README.format(title=self._title))
            files.write_json(file, self.settings)
            return
        try:
            found = json.loads(file.read_text("utf-8"))
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged ({error}). Remove {self.path} to start over, or "
                "give another workdir."
            ) from error
        self._check_same(found, self.settings, self.path)

    def _check_siblings(self):
        """Raises AnotherExperiment if replicates beside this one are of another."""
        if "replicate" not in self.settings or number_of(self.path) is None:
            return
        for file in sorted(self.path.parent.glob(f"{REPLICATE}*/{SETTINGS_FILE}")):
            if number_of(file.parent) is None:
                continue
            try:
                found = _shared(json.loads(file.read_text("utf-8")))
            except ValueError:
                continue  # damaged: it will say so itself
            self._check_same(found, _shared(self.settings), file.parent)

    def _check_no_replicates(self):
        """Raises AnotherExperiment if there are replicates inside this folder."""
        if there := begun(self.path):
            names = first_of(folder.name for folder in there.values())
            raise AnotherExperiment(
                f"{self.path} holds replicates ({names}). Give --replicates to go on "
                "with them, or another workdir."
            )

    @staticmethod
    def _check_same(found, settings, folder):
        # Folders of earlier versions do not say what their seed comes from, nor all of
        # their optimizee.
        found = {**{k: v for k, v in settings.items() if k in ORIGIN}, **found}
        if isinstance(there := found.get("task"), dict):
            task = settings["task"]
            found["task"] = {**{k: task[k] for k in LATER if k in task}, **there}
        # A trained optimizer is its weights, wherever they lie.
        origins = [one.get("initial_weights") for one in (found, settings)]
        if all(isinstance(one, dict) and "sha256" in one for one in origins):
            found, settings = (
                {**one, "initial_weights": {**origin, "path": ""}}
                for one, origin in zip((found, settings), origins, strict=True)
            )
        different = list(differences(found, settings))
        if different:
            raise AnotherExperiment(
                f"{folder} holds another experiment. Settings that differ:\n  "
                + "\n  ".join(different)
                + (SHUFFLED if any(d.startswith(DATA) for d in different) else "")
                + "\nGive another workdir, or the same settings to continue that run."
            )

    @contextlib.contextmanager
    def alone(self):
        """Holds the folder within a `with` block, against other processes.

        It waits some time for one that holds it: a file server keeps the lock of a
        machine that is gone.

        Raises:
            Busy: if one of them holds it.
        """
        until, told = time.monotonic() + LOCK_SECONDS, False
        with contextlib.ExitStack() as held:
            lock = self.path / LOCK_FILE
            while not held.enter_context(files.locked(lock, wait=False)):
                held.close()
                if not told:
                    logging.warning(
                        "Another process trains in %s; waiting for its end, at most "
                        "%d seconds.",
                        *(self.path, LOCK_SECONDS),
                    )
                told = True
                if time.monotonic() > until:
                    raise Busy(
                        f"Another process trains in {self.path}; two would overwrite "
                        "what the other has done. Wait for its end or stop it, or give "
                        "another workdir."
                    )
                time.sleep(1.0)
            for folder in (self.path, self.path / CHECKPOINTS_FOLDER):
                files.remove_abandoned(folder)
            yield

    @property
    def _title(self):
        told = self.settings
        title = f"{told['student']['rule']} on {told['task']['name']}"
        if teachers := [teacher["rule"] for teacher in told["teachers"]]:
            title += f", {told['scheme']} of {', '.join(teachers)}"
        return f"{title} ({told['preset']} preset)"

    def over(self):
        """Returns what a run ended with whose checkpoints were removed since.

        Returns:
            `(weights, history, validations, about)` as its files tell them; None where
            a checkpoint says more, or the run has not ended.
        """
        kept = any((self.path / CHECKPOINTS_FOLDER).glob("*.npz"))
        if kept or not (self.path / CURVES_FILE).is_file():
            return None
        _, weights, header = saved.read(self.path)
        tables = [
            files.read_csv(self.path / name) for name in (HISTORY_FILE, VALIDATION_FILE)
        ]
        return weights, *tables, header["about"]

    def restore(self):
        """Returns `(arrays, facts)` of the newest readable checkpoint, or None."""
        return checkpoints.load_newest(self.path / CHECKPOINTS_FOLDER)

    def save(self, state):
        """Writes a checkpoint and the curves' numbers."""
        checkpoints.save(
            self.path / CHECKPOINTS_FOLDER,
            state.updates,
            to_arrays(state),
            to_facts(state),
        )
        for name, rows in (
            (HISTORY_FILE, state.history),
            (VALIDATION_FILE, state.validations),
        ):
            files.write_text(self.path / name, files.as_csv(rows))

    def holds(self, state) -> bool:
        """Returns whether the trained optimizer that is there is of this very state.

        A finished run that is called again leaves it so, and what it says of the
        machine and the versions that trained it.
        """
        try:
            about = saved.read(self.path / saved.STUDENT_FILE)[2]["about"]
        except (OSError, ValueError, KeyError):
            return False
        told = about.get("meta_updates"), about.get("seconds")
        return told == (state.updates, state.seconds)

    def save_mixing(self, trace_TNK, tensors, members, file):
        """Writes a Choice rule's mixing weights: a row per step and tensor."""
        rows = [
            {
                "step": t + 1,
                "tensor": name,
                **dict(zip(members, map(float, trace_TNK[t, n]), strict=True)),
            }
            for t in range(len(trace_TNK))
            for n, name in enumerate(tensors)
        ]
        files.write_text(self.path / file, files.as_csv(rows))

    def save_student(self, rule, weights, settings, about, file=saved.STUDENT_FILE):
        """Writes the trained optimizer."""
        saved.save(
            self.path / file,
            rule,
            weights,
            warmup_steps=settings.warmup_steps,
            warmup_learning_rate=settings.warmup_learning_rate,
            about=about,
        )


def number_of(folder) -> int | None:
    """Returns the number of a replicate's folder; None of any other."""
    number = folder.name.removeprefix(REPLICATE)
    named = number != folder.name and number.isdecimal()
    return int(number) if named else None


def begun(workdir, file=SETTINGS_FILE) -> dict[int, pathlib.Path]:
    """Returns the folder of each replicate that holds a file, by its number."""
    names = (path.parent for path in pathlib.Path(workdir).glob(f"{REPLICATE}*/{file}"))
    numbered = ((number_of(path), path) for path in names)
    return dict(sorted((n, path) for n, path in numbered if n is not None))


def check_no_training(folder):
    """Raises AnotherExperiment if a folder holds a training, or replicates of one."""
    folder = pathlib.Path(folder)
    if not ((folder / SETTINGS_FILE).is_file() or begun(folder)):
        return
    said = f"{folder} holds a training, whose configuration and curves"
    if (folder / records.ORDER_FILE).is_file():  # of an earlier version
        logging.warning("%s are, or were, replaced by this evaluation's.", said)
        return
    raise AnotherExperiment(
        f"{said} would be replaced. Give this a workdir of its own."
    )


def check_no_evaluation(folder):
    """Raises AnotherExperiment if a folder holds an evaluation."""
    if (pathlib.Path(folder) / records.ORDER_FILE).is_file():
        raise AnotherExperiment(
            f"{folder} holds an evaluation, whose configuration and curves would be "
            "replaced. Give the training a workdir of its own."
        )


def check_readme(folder):
    """Raises ValueError if a run there would replace somebody else's README.md."""
    path = pathlib.Path(folder) / README_FILE
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8", errors="replace")
    if text.strip() and not any(mark in text for mark in MARKS):
        raise ValueError(
            f"{path} is of something else, and would be replaced. Give the run a "
            "folder of its own as workdir."
        )


def _shared(settings):
    """Returns settings without what replicates may differ in, at every depth.

    Each has its own seed, and may have begun from a trained optimizer of its own, or
    have one as its teacher.
    """
    if isinstance(settings, list):
        return [_shared(one) for one in settings]
    if not isinstance(settings, dict):
        return settings
    return {k: _shared(v) for k, v in settings.items() if k not in OF_A_REPLICATE}


def is_unfinished(folder) -> bool:
    """Returns whether a folder is of a run that goes on, or was interrupted.

    The file of its student stands for it.
    """
    folder = pathlib.Path(folder).expanduser()
    folder = folder.parent if folder.name == saved.STUDENT_FILE else folder
    return (folder / SETTINGS_FILE).is_file() and not (folder / CURVES_FILE).is_file()


def differences(old, new, prefix=""):
    """Yields one line for each setting in which two nested dicts differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(
                old.get(key, "(absent)"), new.get(key, "(absent)"), f"{prefix}{key}."
            )
    elif old != new:
        yield f"{prefix.rstrip('.')}: {old!r} there, {new!r} here"
