"""The paper's Figures 4, 5 and 6: stability; no TensorFlow here."""

import itertools

import numpy as np
import pandas as pd

from tf_amalgam import evaluated, frames, intervals, participants, plots
from tf_amalgam.pages import Section


def stability_and_performance(found):
    """Figure 4: optimization stability against validation loss where students learn."""
    if not evaluated.long_enough(found):
        return None
    task = frames.trained_on(found.runs)
    labels = evaluated.compared(found)
    here = found._replace(runs=found.runs[found.runs["task"] == task])
    losses = evaluated.fits(here, labels, "log_best_val_loss")
    jumps = evaluated.fits(here, labels, "stability")
    table = losses.merge(jumps, on=["task", "optimizer"], suffixes=("_loss", "_jumps"))
    if table[["mean_loss", "mean_jumps"]].isna().any(axis=1).all():
        return None
    figure, axes = plots.canvas(1, 1, 6.4, 3.8)
    axis = axes[0][0]
    for row in table.itertuples():
        look = found.styles[row.optimizer]
        axis.errorbar(
            row.mean_jumps,
            row.mean_loss,
            xerr=intervals.arms(
                row.mean_jumps, row.mean_low_jumps, row.mean_high_jumps
            ),
            yerr=intervals.arms(row.mean_loss, row.mean_low_loss, row.mean_high_loss),
            fmt=look.marker,
            color=look.color,
            ms=5,
            lw=0.8,
            label=plots.text(
                f"{row.optimizer}{_lost(row.diverged_loss, row.runs_loss)}"
            ),
        )
    axis.set(xlabel="optimization stability", ylabel="log best validation loss")
    intervals.legend(axis)
    lost = " Where all runs diverged, there is no point."
    return Section(
        "figure4",
        f"Stability against performance on {task} (Figure 4)",
        "Optimization stability (App. D.2) and best log validation loss, means with "
        "95 % intervals; lower left is better."
        f"{lost if table['diverged_loss'].any() else ''}",
        figure,
        numbers=table,
    )


def stability(found):
    """Figure 5: optimization stability by optimizee."""
    labels = evaluated.compared(found)
    table = evaluated.fits(found, labels, "stability")
    if not evaluated.long_enough(found) or table["mean"].isna().all():
        return None
    rows = intervals.ranked(table, labels)
    block = intervals.Block(table, "σ_η of validation loss", log=True)
    return Section(
        "figure5",
        "Optimization stability (Figure 5)",
        "How much validation loss jumps between epochs (App. D.2), means with 95 % "
        "intervals. Rows from the best to the worst mean over optimizees; lower is "
        f"more stable; {intervals.OWN_AXES}.",
        intervals.by_optimizee([block], rows, found.styles),
        numbers=table,
    )


# What is the same for a perturbed student and the undisturbed one beside it.
EXPERIMENT = ["student", "scheme", "teachers"]
SHIFT = 1.08  # ratio of ε between series of the same


def meta_stability(found):
    """Figure 6: meta-stability against the size of a perturbation in training.

    One series for each scheme, pool and kind of perturbation; the dashed lines are
    undisturbed students of the same scheme and pool.
    """
    table = evaluated.meta_stability_table(found)
    table = table[table["input_noise"] == 0.0]
    noisy = table[table["perturbation"] != ""]
    if not len(noisy) or noisy["meta"].isna().all():
        return None
    undisturbed = _undisturbed(table, noisy)
    figure, axes = plots.canvas(1, 1, 7.4, 3.8)
    axis, shift = axes[0][0], 1.0
    experiments = list(dict.fromkeys(map(tuple, noisy[EXPERIMENT].to_numpy())))
    for color, experiment in zip(itertools.cycle(plots.COLORS), experiments):
        kinds = _of(noisy, experiment).groupby("perturbation", sort=False)
        for j, (kind, rows) in enumerate(kinds):
            rows = rows.sort_values("radius", kind="stable")
            axis.errorbar(
                rows["radius"] * shift,
                rows["meta"],
                yerr=intervals.arms(rows["meta"], rows["meta_low"], rows["meta_high"]),
                fmt=participants.MARKERS[j % len(participants.MARKERS)],
                ls=plots.LINES[j % len(plots.LINES)],
                color=color,
                ms=5,
                lw=1,
                label=plots.text(f"{kind}: {_told(*experiment)}"),
            )
            shift *= SHIFT
        for j, row in enumerate(_of(undisturbed, experiment).itertuples()):
            lost = _lost(row.diverged, row.runs)
            label = plots.text(f"{row.optimizer}, undisturbed{lost}")
            dashes = (6 * j, (6, 3 + 3 * j))
            axis.axhline(row.meta, color=color, lw=0.9, ls=dashes, label=label)
    _say_lost(axis, noisy)
    shown = pd.concat([noisy, undisturbed], ignore_index=True)
    axis.set(xscale="log", xlabel="ε", ylabel="σ_α of log training loss")
    axis.set_xlim(noisy["radius"].min() / 2, noisy["radius"].max() * 2)
    top = min(shown["meta_high"].max(), 3.0 * shown["meta"].max())
    axis.set_ylim(-0.03 * top, 1.05 * top)
    axis.legend(
        frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2
    )
    return Section(
        "figure6",
        "Meta-stability against perturbation (Figure 6)",
        "Standard deviation between replicates of the log training loss on "
        f"{frames.trained_on(found.runs)} (App. D.1), 95 % intervals (which may run "
        "over the edge); lower is more stable. Dashed: students of the same scheme and "
        "pool without a perturbation. Where series have the same ε, points stand aside "
        "a little. Grey: how many runs diverged; where all did, there is no point.",
        figure,
        numbers=shown,
    )


def _told(student, scheme, teachers):
    """Returns in a few words what was trained."""
    names = teachers.split(", ") if teachers else []
    if not names:
        return f"{student or 'student'} without teachers"
    pool = teachers if len(names) <= 3 else f"{len(names)} teachers"
    return f"{scheme.replace('_', '-')} of {pool}"


def _undisturbed(table, noisy):
    """Returns students without a perturbation of the experiments that have one."""
    known = set(map(tuple, noisy[EXPERIMENT].to_numpy()))
    plain = table[table["perturbation"] == ""]
    alike = [tuple(row) in known for row in plain[EXPERIMENT].to_numpy()]
    return plain[np.array(alike, dtype=bool)]  # an empty list would choose columns


def _of(table, experiment):
    return table[(table[EXPERIMENT] == list(experiment)).all(axis=1)]


def _lost(diverged, runs):
    """Returns what a name says of diverged runs, nothing where there are none."""
    return f" ({diverged:.0f} of {runs:.0f} diverged)" if diverged else ""


def _say_lost(axis, noisy):
    """Says above each radius of whom runs diverged."""
    for radius, rows in noisy[noisy["diverged"] > 0].groupby("radius"):
        told = "\n".join(
            f"{row.optimizer}: {row.diverged} of {row.runs} diverged"
            for row in rows.itertuples()
        )
        axis.annotate(
            *(plots.text(told), (radius, 0.98)),
            xycoords=axis.get_xaxis_transform(),
            rotation=90,
            ha="right",
            va="top",
            fontsize=intervals.SMALL - 1,
            color=intervals.GREY,
        )
