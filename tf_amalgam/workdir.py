"""The folder of one meta-training run: what is in it, and whose it is."""

import csv
import io
import json
import pathlib

from tf_amalgam import checkpoints, files, saved

SETTINGS_FILE = "settings.json"
HISTORY_FILE = "history.csv"
VALIDATION_FILE = "validation.csv"
CURVES_FILE = "curves.png"
UNTRAINED_FILE = "untrained.npz"


class Workdir:
    """Reads and writes one run's folder; every write is atomic.

    Raises:
        ValueError: if the folder holds a run with other settings (naming them).
    """

    def __init__(self, path, settings: dict):
        self.path = pathlib.Path(path)
        self.settings = json.loads(json.dumps(settings))
        self._claim()

    def _claim(self):
        file = self.path / SETTINGS_FILE
        if not file.is_file():
            files.write_json(file, self.settings)
            return
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(
                f"{file} is damaged ({error}). Remove {self.path} to start over, or "
                "give another workdir."
            ) from error
        different = list(differences(found, self.settings))
        if different:
            raise ValueError(
                f"{self.path} holds another experiment. Settings that differ:\n  "
                + "\n  ".join(different)
                + "\nGive another workdir, or the same settings to continue that run."
            )

    def restore(self):
        """Returns `(arrays, facts)` of the newest readable checkpoint, or None."""
        return checkpoints.load_newest(self.path / "checkpoints")

    def save(self, trainer, state):
        """Writes a checkpoint and the curves' numbers."""
        checkpoints.save(
            self.path / "checkpoints",
            state.updates,
            trainer.arrays(state),
            trainer.facts(state),
        )
        for name, rows in (
            (HISTORY_FILE, state.history),
            (VALIDATION_FILE, state.validations),
        ):
            files.write_text(self.path / name, as_csv(rows))

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


def differences(old, new, prefix=""):
    """Yields one line for each setting in which two nested dicts differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            yield from differences(
                old.get(key, "(absent)"), new.get(key, "(absent)"), f"{prefix}{key}."
            )
    elif old != new:
        yield f"{prefix.rstrip('.')}: {old!r} there, {new!r} here"


def as_csv(rows) -> str:
    """Returns dicts with the same keys as CSV text."""
    if not rows:
        return ""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_csv(path) -> list[dict]:
    """Returns the rows of a CSV file of numbers."""
    with open(path, newline="") as file:
        return [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
