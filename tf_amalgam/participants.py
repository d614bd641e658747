"""Who took part in an evaluation: what each one is, and how it is drawn."""

import math
from typing import NamedTuple

import pandas as pd

from tf_amalgam import frames, plots, words

# Kind → its colour in all figures.
KINDS = {
    "pool": plots.COLORS[0],
    "Keras": plots.COLORS[5],
    "amalgamated": plots.COLORS[1],
    "other learned": plots.COLORS[2],
    "authors' weights": plots.COLORS[3],
    "Choice rule": plots.COLORS[4],
    "analytic, not in the pool": plots.COLORS[6],
}
MARKERS = "osD^vPX*<>"
# Keras' default learning rates; what is not named has the last one.
KERAS_RATES = {"SGD": 0.01, "ScheduleFreeAdamW": 0.0025}
KERAS_RATE = 0.001


class Style(NamedTuple):
    """How one label is drawn, in every figure alike."""

    kind: str  # of `KINDS`
    color: str  # its kind's
    marker: str  # told apart within a kind
    line: str


def kind_of(kind, pool, label, amalgamated, trained_on, student) -> str:
    """Returns what an optimizer is, of `KINDS`.

    Args:
        kind: of its records: "analytic", "learned", "choice" or "keras".
        pool: labels of the pool.
        label: its own.
        amalgamated: whether several teachers were combined for it.
        trained_on: the optimizee it was trained on; none where its weights were
            imported.
        student: what its file says it is; nothing where it came out of no file.
    """
    if kind == "learned":
        if student and not trained_on:
            return "authors' weights"
        return "amalgamated" if amalgamated else "other learned"
    if kind == "analytic":
        return "pool" if label in pool else "analytic, not in the pool"
    return "Choice rule" if kind == "choice" else "Keras"


def styles(runs, pool) -> dict[str, Style]:
    """Returns how each label of `frames.runs` is drawn.

    Colours say the kind; marks and lines tell the labels of a kind apart.
    """
    found: dict[str, Style] = {}
    for row in runs.drop_duplicates("optimizer").itertuples():
        told = (row.amalgamated, row.trained_on, row.student)
        kind = kind_of(row.kind, pool, row.optimizer, *told)
        i = sum(style.kind == kind for style in found.values())
        found[row.optimizer] = Style(
            kind,
            KINDS[kind],
            MARKERS[i % len(MARKERS)],
            plots.LINES[i % len(plots.LINES)],
        )
    return found


def table(records, pool) -> pd.DataFrame:
    """Returns a row for each label: what it is, and where it comes from."""
    by_label: dict[str, list] = {}
    for record in records:
        by_label.setdefault(record["optimizer"], []).append(record)
    return pd.DataFrame([_row(k, several, pool) for k, several in by_label.items()])


def _row(label, records, pool):
    first = records[0]
    config, trained = first["optimizer_config"], first["trained"]
    learned = first["kind"] == "learned"
    name = config.get("class", trained.get("student", "")).rpartition(".")[2]
    teachers = trained.get("teachers") or [m["rule"] for m in config.get("pool", ())]
    once = {record["replicate"]: record["trained"] for record in records}.values()
    return {
        "optimizer": label,
        "kind": kind_of(
            first["kind"],
            pool,
            label,
            frames.amalgamated(trained),
            trained.get("task"),
            trained.get("student"),
        ),
        "class": name or "–",
        "learning_rate": _rate(config.get("learning_rate")),
        "settings": _settings(first["kind"], name, first),
        "replicates": len(once),
        "scheme": trained.get("scheme", "")
        if learned and frames.amalgamated(trained)
        else "",
        "teachers": ", ".join(teachers),
        "noise": words.noise(trained),
        "begun_from": trained.get("begun_from", ""),
        "meta_updates": _mean(one.get("meta_updates") for one in once),
        "hours": _mean(one.get("seconds") for one in once) / 3600.0,
    }


def _rate(rate):
    if isinstance(rate, dict):  # a schedule
        return str(rate.get("class_name", "schedule"))
    return math.nan if rate is None else float(rate)


def _settings(kind, name, record):
    """Returns where hyperparameters come from, as far as a record says."""
    if kind == "analytic":
        return f"preset {record['settings'].get('preset', '–')}"
    if kind == "keras":
        rate = record["optimizer_config"].get("learning_rate")
        usual = KERAS_RATES.get(name, KERAS_RATE)
        if not isinstance(rate, (int, float)):
            return "own rate" if rate else "–"
        return "default rate" if math.isclose(rate, usual, rel_tol=1e-5) else "own rate"
    preset = record["trained"].get("preset")
    return f"trained, preset {preset}" if preset else "trained"


def _mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan
