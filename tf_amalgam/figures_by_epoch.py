"""The paper's Figures 3 and 11: learning curves; no TensorFlow here."""

import numpy as np
import pandas as pd

from tf_amalgam import evaluated, frames, participants, plots
from tf_amalgam.pages import Section

ORACLE = participants.Style("pool", participants.KINDS["pool"], "o", "--")
# The lower end of a band is at least this share of the lowest loss of its epoch.
LOWEST = 0.5


def validation(found, value="val_loss"):
    """The best student, the Choice rules and the oracle by epoch.

    Args:
        found: `evaluated.Evaluated`.
        value: "val_loss" (Figure 3) or "val_accuracy" (Figure 11).
    """
    curves = found.curves.dropna(subset=[value]) if len(found.curves) else found.curves
    lines = _lines(found, curves)
    tasks = [task for task in found.tasks["task"] if task in set(lines["task"])]
    if not tasks:
        return None
    columns = min(3, len(tasks))
    figure, axes = plots.canvas(-(-len(tasks) // columns), columns, 3.8, 2.7)
    panels, table = list(axes.flat), []
    for axis, task in zip(panels, tasks, strict=False):
        here = lines[lines["task"] == task]
        log = value == "val_loss" and here[value].min() >= 0.0
        for label, rows in here.groupby("line", sort=False):
            look = _look(found, label)
            table.append(_line(axis, rows, label, value, look, task, log))
        axis.set(title=plots.text(task), xlabel="epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if log:
            axis.set_yscale("log")
            plots.plain_numbers(axis.yaxis)
    for axis in panels[len(tasks) :]:
        axis.set_visible(False)
    labels = list(dict.fromkeys(lines["line"]))
    _key(figure, axes, labels, [_look(found, label) for label in labels])
    return _section(found, value, figure, pd.concat(table, ignore_index=True))


def _look(found, label):
    """Returns how a line is drawn; the reference's is whole."""
    if label == "oracle":
        return ORACLE
    look = found.styles[label]
    return look._replace(line="-") if label == found.reference else look


def _line(axis, rows, label, value, look, task, log):
    """Draws one line and its band; returns its numbers."""
    by_epoch = rows.groupby("epoch")[value]
    mean, sd = by_epoch.mean(), by_epoch.std().fillna(0.0)
    axis.plot(mean.index, mean, look.line, color=look.color, lw=1.3)
    low, high = mean - 2 * sd, mean + 2 * sd
    if log:  # such an axis ends somewhere above 0
        low = np.maximum(low, LOWEST * by_epoch.min())
    axis.fill_between(mean.index, low, high, color=look.color, alpha=0.15, lw=0)
    numbers = pd.DataFrame({"mean": mean, "sd": sd}).reset_index()
    return numbers.assign(task=task, optimizer=label)


def _key(figure, axes, labels, looks):
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=look.color, ls=look.line) for look in looks]
    figure.legend(
        lines,
        [plots.text(label) for label in labels],
        loc="outside lower center",
        ncols=max(1, min(len(labels), axes.shape[1] + 1)),
        frameon=False,
        fontsize=8,
    )


def _section(found, value, figure, table):
    loss = value == "val_loss"
    what, number = ("loss", 3) if loss else ("accuracy", 11)
    drawn = _lines(found, found.runs)
    lost = int(drawn["diverged"].sum())
    oracles = ", ".join(f"{task}: {label}" for task, label in found.best.items())
    clipped = (
        f" On logarithmic axes the lower end of a band stops at {LOWEST:g} of the "
        "lowest loss of its epoch."
        if loss
        else ""
    )
    return Section(
        f"figure{number}",
        f"Validation {what} by epoch (Figure {number})",
        "Mean ± 2 standard deviations over the runs of a line that did not diverge "
        f"({lost} of their {len(drawn)} did); of a student those of its best "
        "replicate, of a Choice rule of the one that taught it, or else of its best."
        f"{clipped} Oracles: {oracles or 'none'}.",
        figure,
        numbers=table,
    )


def _taught(found, label):
    """Returns whether a Choice rule's replicates are teachers of the reference's."""
    runs = found.runs
    mine, students = (runs[runs["optimizer"] == o] for o in (label, found.reference))
    amalgamated = "scheme" in students and set(students["scheme"]) == {"choice"}
    return amalgamated and {*mine["replicate"]} == {*students["replicate"]}


def _lines(found, frame):
    """Returns the rows of a frame that belong to a line, which `line` names.

    Lines are the reference's best replicate, that of each Choice rule (of those that
    taught the reference's replicates the one that taught that one), and the oracle.
    """
    parts = []
    if not len(frame):
        return pd.DataFrame(columns=["task", "line"])
    choice = evaluated.labels_of(found.runs[found.runs["kind"] == "choice"])
    reference = [found.reference] if found.reference is not None else []
    for label in dict.fromkeys([*reference, *choice]):
        taught = label in choice and _taught(found, label)
        whose = found.reference if taught else label
        replicate = frames.best_replicate(found.runs, whose)
        mine = frame["optimizer"].eq(label) & frame["replicate"].eq(replicate)
        parts.append(frame[mine].assign(line=label))
    for task, label in found.best.items():
        mine = frame["task"].eq(task) & frame["optimizer"].eq(label)
        parts.append(frame[mine].assign(line="oracle"))
    none = pd.DataFrame(columns=["task", "line"])
    return pd.concat(parts, ignore_index=True) if parts else none
