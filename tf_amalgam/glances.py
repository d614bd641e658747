"""Tables for a first look: a row per optimizer, a column per optimizee."""

import math

import pandas as pd

from tf_amalgam import evaluated, frames, records, stats
from tf_amalgam.evaluated import RIVAL
from tf_amalgam.pages import Section

# Share of 95 % intervals that leave out the truth.
MISSED = 0.05


def all_glances(given, found) -> list[Section]:
    """Returns what the records have data for, the most important first.

    Args:
        given: `evaluated.Evaluated`.
        found: the records.
    """
    runs = frames.with_oracle(given.runs, given.best)
    drawn = [
        losses(
            runs,
            "losses",
            "Best validation loss",
            "best_val_loss",
            ".4f",
        ),
        losses(
            runs,
            "accuracies",
            "Test accuracy, %",
            "test_at_best_accuracy",
            ".2f",
            100.0,
            f" Of {evaluated.WEIGHTS}.",
        ),
    ]
    if given.best:
        table = frames.verdicts(runs, "oracle")
        reaching = frames.reaching(found, given.best)
        drawn = [
            verdicts(given.best, table),
            _against_rivals(given),
            *drawn,
            effects(given, table),
            steps(given, reaching),
        ]
    elif given.rivals:
        drawn = [_against_rivals(given), *drawn]
    drawn.append(milliseconds(given))
    return [one for one in drawn if one is not None]


def _against_rivals(given):
    """Returns the table against the best of the rivals, where there are any."""
    if not given.best_rivals:
        return None
    runs = frames.with_oracle(given.runs, given.best_rivals, RIVAL)
    table = frames.verdicts(runs, RIVAL)
    title = f"Against the best of {', '.join(given.rivals)}"
    shown = verdicts(given.best_rivals, table, RIVAL, title)
    return shown and shown._replace(numbers=table)


def verdicts(best, table, who="oracle", title="Against the oracle"):
    """Returns who beats, equals and loses to an opponent, optimizee by optimizee.

    Args:
        best: the opponent's label on each optimizee (that of the oracle, say).
        table: `frames.verdicts` against it.
        who: what the opponent is called.
        title: of the section.
    """
    if not len(table):
        return None
    rows, marks = [], []
    for label in dict.fromkeys(table["optimizer"]):
        here = table[table["optimizer"] == label].set_index("task")
        cells = [_verdict(here, task, who, label == best[task]) for task in best]
        rows.append([label, *(said for said, _ in cells), _mean(here, best)])
        marks.append(["", *(verdict for _, verdict in cells), ""])
    columns = ["optimizer", *best, "mean"]
    own = table["optimizer"] == table["task"].map(best)
    told = int((table["verdict"].isin(["better", "worse", "level"]) & ~own).sum())
    return Section(
        "verdicts" if who == "oracle" else "verdicts_rivals",
        title,
        f"Mean log test loss at {evaluated.WEIGHTS}, minus the {who}'s (nats); better "
        f"or worse where the 95 % interval leaves out 0. Of {told} such intervals "
        f"about {MISSED * told:.0f} leave it out by chance where nothing differs. "
        "Where runs diverged, the number is of the others. The last column is the mean "
        f"over optimizees, if no run diverged. The {who} was chosen on the validation "
        "split.",
        table=pd.DataFrame(rows, columns=columns),
        marks=pd.DataFrame(marks, columns=columns),
    )


def _verdict(rows, task, who, own):
    """Returns what a cell says, and the verdict."""
    if own:
        return who, ""
    if task not in rows.index:
        return "–", ""
    row = rows.loc[task]
    far = "–" if math.isnan(row["difference"]) else f"{row['difference']:+.2f}"
    said = "" if row["verdict"] == "diverged" else f" {row['verdict']}"
    told = [f"{row['diverged']} diverged"] if row["diverged"] else []
    if not told and (lacking := frames.unpaired(row)):
        told.append(lacking)
    return f"{far}{said}{_bracketed(told)}", row["verdict"]


def _mean(rows, tasks):
    """Returns the mean over optimizees; none where a cell lacks or lost runs."""
    rows = rows.reindex(list(tasks))
    mean = rows["difference"].mean(skipna=False)
    lost = rows["diverged"].gt(0).any()
    return "–" if lost or math.isnan(mean) else f"{mean:+.2f}"


def losses(runs, name, title, value, form, scale=1.0, note="") -> Section | None:
    """Returns means with half of their intervals, as text; None of what has none."""
    whole = runs[~runs["diverged"]]
    if len(whole) and whole[value].isna().all():
        return None

    def cell(here):
        fit = stats.mixed_model(here, value)
        half = fit.mean_high - fit.mean
        told = records.figure(scale * fit.mean, scale * half, form)
        lost = int(here["diverged"].sum())
        idle = int((~here["learned"]).sum()) - lost
        counts = [f"{lost} diverged"] if lost else []
        counts += [f"{idle} not learned"] if idle else []
        return f"{told}{_bracketed(counts)}"

    return _section(
        name,
        title,
        f"Means ± half of their 95 % intervals (linear mixed model, App. D.1).{note}",
        _pivot(runs, cell),
    )


def effects(given, table) -> Section | None:
    """Returns Hedges' g against the oracle."""
    own = table["task"].map(given.best) == table["optimizer"]

    def cell(here):
        row = here.iloc[0]
        if own[row.name]:
            return "oracle"
        known = not math.isnan(row["effect"])
        return f"{row['effect']:+.1f}" if known else "–"

    return _section(
        "effects",
        "Effect sizes against the oracle",
        "Hedges' g: the difference of log test losses in standard deviations of a run, "
        "of runs that did not diverge; below 0 is better.",
        _pivot(table, cell),
    )


def steps(given, reaching) -> Section | None:
    """Returns the steps to the oracle's loss, and how many runs reached it."""

    def cell(here):
        row = here.iloc[0]
        mean = f"{row['steps']:.0f}" if row["reached"] else "–"
        return f"{mean} ({row['reached']}/{row['runs']})"

    own = ", ".join(f"{task}: {label}" for task, label in given.best.items())
    return _section(
        "steps",
        "Steps to the oracle's loss (reached k/n)",
        "Mean steps until the end of the first epoch at or below the oracle's mean "
        "best validation loss, of the k of n runs that reached it; of the oracle's own "
        f"some do not, since their mean is the goal. Oracles: {own}.",
        _pivot(reaching, cell),
    )


def milliseconds(given) -> Section | None:
    """Returns the time of a step."""

    def cell(here):
        whole = here.loc[~here["diverged"], "milliseconds"]
        return f"{whole.mean():.1f}" if len(whole) else "–"

    return _section(
        "times",
        "Milliseconds per step",
        "Means over runs that did not diverge of each one's median step. Runs that "
        "shared the machine are slower than alone.",
        _pivot(given.runs, cell),
    )


def _section(name, title, caption, table):
    cells = table.iloc[:, 1:].to_numpy().ravel()
    if all(cell == "–" for cell in cells):
        return None
    return Section(name, title, caption, table=table, numbers=table)


def _pivot(frame, cell):
    """Returns text by optimizer and optimizee; – where there is none."""
    rows: dict[str, dict[str, str]] = {}
    for (label, task), here in frame.groupby(["optimizer", "task"], sort=False):
        rows.setdefault(label, {})[task] = cell(here)
    tasks = list(dict.fromkeys(frame["task"]))
    return pd.DataFrame(
        [[label, *(c.get(task, "–") for task in tasks)] for label, c in rows.items()],
        columns=["optimizer", *tasks],
    )


def _bracketed(told):
    return f" ({', '.join(told)})" if told else ""
