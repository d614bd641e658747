"""Means with their intervals as points on a panel; no TensorFlow here."""

import numpy as np

from tf_amalgam import plots

MARKERS = "osD^vPX*<>"


def dots(axis, table, labels, crop=None):
    """Draws means and intervals: a column per optimizee, side by side by optimizer.

    A triangle at the edge lies beyond it; a cross says that runs diverged.
    """
    tasks = list(dict.fromkeys(table["task"]))
    step = 0.8 / max(1, len(labels))
    for i, label in enumerate(labels):
        rows = table[table["optimizer"] == label]
        x = np.array([tasks.index(task) for task in rows["task"]], float)
        x += (i - (len(labels) - 1) / 2) * step
        inside = rows["mean"].le(crop) if crop is not None else rows["mean"].notna()
        bars = arms(rows["mean"], rows["mean_low"], rows["mean_high"])
        shown = inside.to_numpy(bool)
        axis.errorbar(
            x[shown], rows["mean"][shown], yerr=bars[:, shown], **style(i, label)
        )
        beyond = (~inside & rows["mean"].notna()).to_numpy(bool)
        lost = rows["diverged"].gt(0).to_numpy(bool)
        for marker, height, these in (("^", 0.98, beyond), ("x", 0.94, lost)):
            axis.plot(
                x[these],
                np.full(these.sum(), height),
                marker,
                ms=5,
                color=plots.COLORS[i % len(plots.COLORS)],
                transform=axis.get_xaxis_transform(),
            )
    names = [text(task) for task in tasks]
    axis.set_xticks(range(len(tasks)), names, rotation=30, ha="right", fontsize=8)
    if crop is not None:
        axis.set_ylim(top=min(axis.get_ylim()[1], crop))
    legend(axis)


def arms(mean, low, high):
    """Returns the lengths of error bars, [2, …]; none where there is no interval."""
    bars = np.array([np.subtract(mean, low), np.subtract(high, mean)], float)
    bars = bars.reshape(2, -1)
    return np.where(np.isfinite(bars), np.maximum(bars, 0.0), 0.0)


def style(i, label):
    """Returns how the i-th label is drawn by `errorbar`."""
    return {
        "fmt": MARKERS[(i // len(plots.COLORS)) % len(MARKERS)],
        "color": plots.COLORS[i % len(plots.COLORS)],
        "ms": 4,
        "lw": 1,
        "label": text(label),
    }


def text(label):
    """Returns a label as it is: no formula, and not hidden from legends."""
    label = label.replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def legend(axis):
    """Puts a legend beside the panel, if there is anything to name."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(
            frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )
