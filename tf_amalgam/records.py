"""What a finished run leaves on disk, and the table made of it."""

import importlib.metadata
import json
import math
import os
import pathlib
import platform
import re
import statistics
import sys

from tf_amalgam import files

FORMAT = "tf_amalgam record"
VERSION = 3
# What is read of every record.
KEYS = (
    *("task", "optimizer", "replicate", "seed", "kind", "trained", "settings"),
    *("curves", "test", "test_at_best", "start_loss", "diverged"),
    *("versions", "load"),
    *("seconds", "step_milliseconds", "steps_per_epoch", "optimizer_config"),
)
# By far the longest part of a record; last in its file, so that few need to read it.
LOSSES = "batch_losses"
ORDER_FILE = "order.json"
TERMS_FILE = "terms.json"  # what is one for all records of a folder
SAMPLES = "datasets"  # a folder of images of the data
ORDERED = ("task", "optimizer")


def versions() -> dict:
    """Returns what results depend on: versions by name, and the `machine`'s class."""
    found = {"python": platform.python_version()}
    for name in ("tf_amalgam", "tensorflow", "keras", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    found["machine"] = f"{os.cpu_count()} CPU cores ({platform.machine()})"
    return found


def safe(name) -> str:
    """Returns a name as a file or folder may have it."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)


def record_path(folder, task, optimizer, seed, replicate=0) -> pathlib.Path:
    """Returns where the record of one run lies under `folder`."""
    return pathlib.Path(folder) / record_name(task, optimizer, seed, replicate)


def record_name(task, optimizer, seed, replicate=0) -> str:
    """Returns the path of one run's record in the folder of all."""
    return f"{safe(task)}/{safe(optimizer)}-replicate{replicate}-seed{seed}.json"


def stamped(record) -> dict:
    """Returns a record with what `read` knows it by."""
    return {"format": FORMAT, "version": VERSION, **record}


def write(path, record):
    """Writes a record atomically, JSON of two lines: the losses of minibatches last."""
    head = {key: value for key, value in stamped(record).items() if key != LOSSES}
    text = json.dumps(head, sort_keys=True).removesuffix("}")
    losses = json.dumps(record[LOSSES])
    files.write_text(path, f'{text},\n"{LOSSES}": {losses}}}\n')


def read(path, batch_losses=False) -> dict:
    """Returns one record.

    Args:
        path: of its file.
        batch_losses: whether to return the losses of all minibatches too; without
            them a record takes a fiftieth of the time and memory.

    Raises:
        ValueError: naming the file, if it is not a readable record.
    """
    try:
        record = _parsed(path, batch_losses)
        if record["format"] != FORMAT or record["version"] != VERSION:
            raise ValueError(
                f"format {record['format']!r}, version {record['version']}; this "
                f"tf_amalgam reads version {VERSION}"
            )
        if missing := [key for key in KEYS if key not in record]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        if "configuration" in record:  # one text for all of a sweep, not one each
            record["configuration"] = sys.intern(record["configuration"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is not a readable record ({error}). Remove it to run that "
            "evaluation again."
        ) from error
    return record


def _parsed(path, batch_losses):
    with open(path, encoding="utf-8") as file:
        head = file.readline()
        mark = f'"{LOSSES}":'
        begun = file.read(len(mark))
        if not batch_losses and head.endswith(",\n") and begun == mark:
            return json.loads(head.removesuffix(",\n") + "}")
        record = json.loads(head + begun + file.read())
    if not batch_losses:
        record.pop(LOSSES, None)
    return record


def record_paths(folder) -> list[pathlib.Path]:
    """Returns the paths of all records under `folder`."""
    return sorted(pathlib.Path(folder).glob("*/*-seed*.json"))


def paths_of(folder, tasks, optimizers) -> list[pathlib.Path]:
    """Returns the paths of the records of some optimizees or optimizers."""
    folders = {safe(name) for name in tasks}
    starts = tuple(f"{safe(name)}-replicate" for name in optimizers)
    return [
        path
        for path in record_paths(folder)
        if path.parent.name in folders or path.name.startswith(starts)
    ]


def read_all(folder, batch_losses=False) -> list[dict]:
    """Returns every record under `folder`, in the order of `remember_order`.

    Args:
        folder: of the records.
        batch_losses: see `read`; those of thousands of runs may be gigabytes.
    """
    folder = pathlib.Path(folder)
    found = [read(path, batch_losses) for path in record_paths(folder)]
    order = read_order(folder)

    def place(record):
        names = [
            (order[key].index(name) if name in order[key] else len(order[key]), name)
            for key, name in ((key, record[key]) for key in ORDERED)
        ]
        return (*names, record["replicate"], record["seed"])

    return sorted(found, key=place)


def remember_order(folder, task, optimizer, seeds=(), replicates=None):
    """Writes down what is to be run, in the order in which it is shown; new ones last.

    Args:
        folder: of the records.
        task, optimizer: names of optimizees and optimizers.
        seeds: of the evaluations.
        replicates: numbers of those of an optimizer, by name; 0 where it is not said.
    """
    folder = pathlib.Path(folder)
    given = {"task": task, "optimizer": optimizer, "seed": [int(s) for s in seeds]}
    with files.locked(folder / files.LOCKS / "order"):
        order = read_order(folder)
        merged: dict = {
            key: list(dict.fromkeys([*order[key], *several]))
            for key, several in given.items()
        }
        numbers = dict(order["replicates"])
        for name, several in (replicates or {}).items():
            numbers[name] = sorted({*several, *numbers.get(name, ())})
        files.write_json(folder / ORDER_FILE, {**merged, "replicates": numbers})


def read_order(folder) -> dict:
    """Returns what `remember_order` wrote: lists of `task`, `optimizer` and `seed`.

    And `replicates`, their numbers by optimizer.
    """
    path = pathlib.Path(folder) / ORDER_FILE
    if not path.is_file():
        return {**{key: [] for key in ORDERED}, "seed": [], "replicates": {}}
    try:
        found = json.loads(path.read_text("utf-8"))
        numbers = found.get("replicates", {})
        return {
            **{key: [str(name) for name in found[key]] for key in ORDERED},
            "seed": [int(seed) for seed in found.get("seed", [])],
            "replicates": {str(k): _numbers(v) for k, v in numbers.items()},
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}). Remove it; records then go by name."
        ) from error


def _numbers(several):
    """Returns the numbers of replicates; earlier versions wrote how many there are."""
    return list(range(several)) if isinstance(several, int) else list(map(int, several))


# Column of the table → (value of one run, number format).
COLUMNS = {
    "final val loss": (lambda r: r["curves"]["val_loss"][-1], ".4f"),
    "best val loss": (lambda r: min(r["curves"]["val_loss"]), ".4f"),
    "val accuracy": (lambda r: r["curves"].get("val_accuracy", [math.nan])[-1], ".4f"),
    "ms/step": (lambda r: r["step_milliseconds"], ".2f"),
}


def table(records) -> str:
    """Returns a Markdown table: one row per optimizee and optimizer.

    Figures are means over seeds, ± one standard deviation where there are several
    seeds. Diverged runs are counted, and left out of the means. Where any run was
    private, a last column says the largest epsilon of the runs, and its delta.
    """
    header = ["optimizee", "optimizer", "runs", "diverged", *COLUMNS]
    private = any("privacy" in r for r in records)
    if private:
        header.append("epsilon")
    rows = [header]
    pairs = dict.fromkeys((r["task"], r["optimizer"]) for r in records)
    for task, optimizer in pairs:
        runs = [r for r in records if (r["task"], r["optimizer"]) == (task, optimizer)]
        whole = [r for r in runs if not r["diverged"]]
        names = [name.replace("|", "\\|") for name in (task, optimizer)]
        cells = [*names, str(len(runs)), str(len(runs) - len(whole))]
        for value, form in COLUMNS.values():
            cells.append(_mean([value(r) for r in whole], form))
        if private:
            cells.append(epsilon(runs))
        rows.append(cells)
    return markdown(rows)


def markdown(rows) -> str:
    """Returns rows of cells as a Markdown table; the first row is its head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    rule = "|" + "|".join("-" * (w + 2) for w in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def epsilon(records) -> str:
    """Returns the largest epsilon and its delta; ∞ for any run without a claim."""
    privacies = [r.get("privacy", {}) for r in records]
    if any(p.get("epsilon") is None for p in privacies):
        return "∞"
    worst = max(privacies, key=lambda p: p["epsilon"])
    return f"{worst['epsilon']:.2f} (delta {worst['delta']:g})"


def _mean(values, form):
    values = [v for v in values if math.isfinite(v)]
    if not values:
        return "–"
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return figure(statistics.fmean(values), deviation, form)


def figure(mean, deviation=math.nan, form=".4f") -> str:
    """Returns a number, and ± another unless that is NaN; – for a NaN.

    In `form`, but where that shows no digits, or far too many, in powers of ten.
    """
    if math.isnan(mean):
        return "–"
    if mean and not 1e-3 <= abs(mean) < 1e4:
        form = ".1e"
    both = [mean] if math.isnan(deviation) else [mean, deviation]
    return " ± ".join(format(value, form) for value in both)
