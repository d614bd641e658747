"""Means with their intervals: a panel per optimizee, a row per optimizer."""

import math
from typing import NamedTuple

import numpy as np
import pandas as pd

from tf_amalgam import participants, plots

COLUMNS = 6  # at most so many panels beside one another
GREY = "#666666"
LEAST_HEIGHT = 1.7  # inches, of a whole figure
SMALL = 7  # points, of what is beside the data
OWN_AXES = "each optimizee has an axis of its own, over which an interval may run"


class Block(NamedTuple):
    """One quantity, drawn in a panel per optimizee.

    Attributes:
        table: fits (`evaluated.fits`).
        name: what it is.
        crop: what lies above is a triangle at the edge, with its value beside it.
        log: whether the axis is logarithmic.
        zero: whether 0 means something, and is marked.
        shared: whether all optimizees have the same limits.
    """

    table: pd.DataFrame
    name: str
    crop: float | None = None
    log: bool = False
    zero: bool = False
    shared: bool = False


def by_optimizee(blocks, labels, styles):
    """Returns a figure: panels by optimizee, the same rows in all, coloured by kind.

    Args:
        blocks: of `Block`, below one another.
        labels: the rows, from top to bottom (see `ranked`).
        styles: label → `participants.Style`.
    """
    tasks = list(dict.fromkeys(blocks[0].table["task"]))
    rows = -(-len(tasks) // COLUMNS)
    columns = -(-len(tasks) // rows)
    # A block's name goes on over the panels beside the first, if there are any.
    panels_wide = 0.07 * max(len(block.name) for block in blocks) / columns
    width = max(1.55, panels_wide) + (0.5 + 0.055 * max(map(len, labels))) / columns
    # The key below needs its room, however few the rows are.
    height = max(0.75 + 0.165 * len(labels), LEAST_HEIGHT / (rows * len(blocks)))
    figure, axes = plots.canvas(rows * len(blocks), columns, width, height)
    colors = [styles[label].color for label in labels]
    for b, block in enumerate(blocks):
        panels = list(axes[b * rows : (b + 1) * rows].flat)
        for n, (axis, task) in enumerate(zip(panels, tasks, strict=False)):
            here = block.table[block.table["task"] == task].set_index("optimizer")
            panel(axis, here, labels, colors, block, named=n % columns == 0)
            ends = block.table if block.shared else here
            axis.set_xlim(*_limits(ends, block))
            heading = (
                f"{block.name}\n{plots.text(task)}"
                if n == 0
                else f"\n{plots.text(task)}"
            )
            axis.set_title(heading, fontsize=9, loc="left")
        for axis in panels[len(tasks) :]:
            axis.set_visible(False)
    key(figure, [styles[label].kind for label in labels])
    return figure


def panel(axis, table, names, colors, block, named=True):
    """Draws one row per name: mean, interval, and beside the panel what has none.

    Args:
        axis: the panel.
        table: by name: `mean`, `mean_low`, `mean_high`, `diverged`; `beside`, if it has
            one, is said beside the panel.
        names: the rows, from top to bottom.
        colors: one each.
        block: what is drawn.
        named: whether rows are named at the left.
    """
    table = table.reindex(names)
    y, colors = np.arange(len(names)), np.array(colors)
    mean = table["mean"].to_numpy(float)
    low, high = (table[f"mean_{end}"].to_numpy(float) for end in ("low", "high"))
    inside = np.isfinite(mean)
    beyond = np.zeros_like(inside)
    if block.crop is not None:
        beyond, inside = inside & (mean > block.crop), inside & (mean <= block.crop)
    bars = inside & np.isfinite(low) & np.isfinite(high)
    axis.hlines(y[bars], low[bars], high[bars], colors=list(colors[bars]), lw=1.2)
    axis.scatter(mean[inside], y[inside], c=list(colors[inside]), s=13, zorder=3)
    if block.zero:
        axis.axvline(0.0, color=GREY, lw=0.8, zorder=0)
    for i in np.flatnonzero(beyond):
        axis.plot(
            *(0.985, y[i], ">"),
            ms=4,
            color=colors[i],
            transform=axis.get_yaxis_transform(),
            clip_on=False,
        )
    for i, told in enumerate(_beside(table, beyond)):
        if told:
            axis.annotate(
                *(told, (1.03, y[i])),
                xycoords=axis.get_yaxis_transform(),
                va="center",
                fontsize=SMALL - 1,
                color=GREY,
                annotation_clip=False,
            )
    axis.set_yticks(
        y, [plots.text(name) if named else "" for name in names], fontsize=8
    )
    if named:
        for tick, color in zip(axis.get_yticklabels(), colors, strict=True):
            tick.set_color(color)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=SMALL)
    if block.log:
        axis.set_xscale("log")
        plots.plain_numbers(axis.xaxis)
    else:
        axis.locator_params(axis="x", nbins=4)


def _beside(table, beyond):
    """Returns for each row what its dot does not say."""
    found = []
    words = table["beside"] if "beside" in table else [""] * len(table)
    rows = zip(table["mean"], table["diverged"], words, beyond, strict=True)
    for mean, diverged, said, far in rows:
        told = [f"{mean:+.1f}"] if far else []
        if isinstance(said, str) and said:  # of a row without runs it is NaN
            told.append(said)
        elif math.isnan(diverged):
            told.append("no runs")
        elif diverged and math.isnan(mean):
            told.append("all div.")
        elif diverged:
            told.append(f"{diverged:.0f} div.")
        elif math.isnan(mean):
            told.append("no value")
        found.append(", ".join(told))
    return found


def _limits(table, block):
    """Returns limits around the means; an interval may run over the edge."""
    mean = table["mean"].to_numpy(float)
    half = 0.5 * (table["mean_high"] - table["mean_low"]).to_numpy(float)
    known = np.isfinite(mean)
    if block.crop is not None:
        known &= mean <= block.crop
    if not known.any():
        return (0.1, 1.0) if block.log else (-1.0, block.crop or 1.0)
    low, high = mean[known].min(), mean[known].max()
    if block.log:
        return low / 2.0, high * 2.0
    usual = half[known & np.isfinite(half)]
    room = max(0.1 * (high - low), np.median(usual) if len(usual) else 0.0, 1e-3)
    top = high + room
    if block.crop is not None:
        over = (mean > block.crop).any()
        top = block.crop if over else min(top, block.crop)
    return low - room, top


def ranked(table, labels, highest=False) -> list[str]:
    """Returns labels from the best to the worst mean over optimizees.

    Those without a mean on some optimizee (all runs diverged, say) come last.

    Args:
        table: fits.
        labels: to sort.
        highest: whether more is better.
    """
    apart = table["mean"] - table.groupby("task")["mean"].transform("mean")
    by_label = table.assign(apart=-apart if highest else apart).groupby("optimizer")
    order = pd.DataFrame(
        {"known": -by_label["mean"].count(), "apart": by_label["apart"].mean()}
    )
    order = order.reindex(labels).sort_values(["known", "apart"], kind="stable")
    return list(order.index)


def key(figure, kinds):
    """Puts below a figure which colour is which kind of optimizer, if there are two."""
    from matplotlib.lines import Line2D

    present = [kind for kind in participants.KINDS if kind in set(kinds)]
    if len(present) < 2:
        return
    marks = [
        Line2D([], [], marker="o", ls="", ms=4, color=participants.KINDS[kind])
        for kind in present
    ]
    figure.legend(
        marks,
        present,
        loc="outside lower center",
        ncols=min(len(present), max(1, int(figure.get_figwidth() / 1.5))),
        frameon=False,
        fontsize=8,
    )


def arms(mean, low, high):
    """Returns the lengths of error bars, [2, …]; none where there is no interval."""
    bars = np.array([np.subtract(mean, low), np.subtract(high, mean)], float)
    bars = bars.reshape(2, -1)
    return np.where(np.isfinite(bars), np.maximum(bars, 0.0), 0.0)


def legend(axis):
    """Puts a legend beside the panel, if there is anything to name."""
    if axis.get_legend_handles_labels()[0]:
        axis.legend(
            frameon=False, fontsize=SMALL, loc="upper left", bbox_to_anchor=(1.0, 1.0)
        )
