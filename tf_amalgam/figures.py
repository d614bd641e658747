"""The paper's figures from data frames (Huang et al. 2022); no TensorFlow here."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from tf_amalgam import evaluated, frames, intervals, plots

# Of a cropped figure, nats above the reference (the paper crops outliers too).
CROP = 1.5


class Drawn(NamedTuple):
    """One figure: its file name, what it shows, and the numbers behind it."""

    name: str
    title: str
    caption: str
    figure: Any
    data: pd.DataFrame


def all_figures(found: evaluated.Evaluated) -> list[Drawn]:
    """Returns every figure that the records have data for, in the paper's order."""
    drawn = [
        schemes(found),
        learned(found),
        learned(found, cropped=False),
        learned_accuracy(found),
        loss_curves(found),
        loss_curves(found, "val_accuracy"),
        stability_and_performance(found),
        stability(found),
        stability_and_losses(found),
        meta_stability(found),
        larger(found),
    ]
    return [figure for figure in drawn if figure is not None]


def schemes(found):
    """Figure 1: amalgamated optimizers by validation and training loss."""
    runs = found.runs
    labels = evaluated.labels_of(
        runs[(runs["kind"] == "learned") & (runs["teachers"] != "")]
    )
    if not labels or found.reference is None:
        return None
    figure, axes = plots.canvas(1, 2, _wide(found))
    parts = []
    for axis, value, name in (
        (axes[0][0], "log_best_val_loss", "best validation loss"),
        (axes[0][1], "log_train_loss", "training loss of the last epoch"),
    ):
        parts.append(evaluated.relative(found, labels, value))
        intervals.dots(axis, parts[-1], labels)
        axis.set(ylabel="nats over the reference", title=f"log {name}")
    return Drawn(
        "figure1",
        "Amalgamated optimizers (Figure 1)",
        f"Mean log loss minus that of {found.reference} (or the lowest, where that has "
        "none), with 95 % intervals of the mean by a linear mixed model; lower is "
        "better, a cross says that runs diverged.",
        figure,
        pd.concat(parts, ignore_index=True),
    )


def learned(found, cropped=True):
    """Figures 2 and 9: all learned optimizers by validation loss."""
    labels = evaluated.labels_of(found.runs[found.runs["kind"] == "learned"])
    if len(labels) < 2 or found.reference is None:
        return None
    table = evaluated.relative(found, labels, "log_best_val_loss")
    figure, axes = plots.canvas(1, 1, _wide(found))
    intervals.dots(axes[0][0], table, labels, CROP if cropped else None)
    axes[0][0].set(ylabel="nats over the reference", title="log best validation loss")
    above = f"; what lies above {CROP} is a triangle at the edge" if cropped else ""
    return Drawn(
        "figure2" if cropped else "figure9",
        f"Learned optimizers (Figure {2 if cropped else 9})",
        f"Mean log validation loss minus that of {found.reference}, 95 % intervals; "
        f"lower is better{above}.",
        figure,
        table,
    )


def learned_accuracy(found):
    """Figure 9, accuracy."""
    labels = evaluated.labels_of(found.runs[found.runs["kind"] == "learned"])
    table = evaluated.fits(found, labels, "best_val_accuracy")
    if len(labels) < 2 or table["mean"].isna().all():
        return None
    figure, axes = plots.canvas(1, 1, _wide(found))
    intervals.dots(axes[0][0], table, labels)
    axes[0][0].set(ylabel="best validation accuracy")
    return Drawn(
        "figure9_accuracy",
        "Learned optimizers, accuracy (Figure 9)",
        "Mean best validation accuracy, 95 % intervals; higher is better.",
        figure,
        table,
    )


def loss_curves(found, value="val_loss"):
    """Figures 3 and 11: the best student, its Choice rule and the oracle by epoch."""
    curves = found.curves.dropna(subset=[value]) if len(found.curves) else found.curves
    lines = _lines(found, curves)
    tasks = [task for task in found.tasks["task"] if task in set(lines["task"])]
    if not tasks:
        return None
    columns = min(3, len(tasks))
    figure, axes = plots.canvas(-(-len(tasks) // columns), columns, 4.2, 3.0)
    panels, table = list(axes.flat), []
    labels = list(dict.fromkeys(lines["line"]))
    for axis, task in zip(panels, tasks, strict=False):
        for i, label in enumerate(labels):
            here = lines[(lines["task"] == task) & (lines["line"] == label)]
            if not len(here):
                continue
            by_epoch = here.groupby("epoch")[value]
            mean, sd = by_epoch.mean(), by_epoch.std().fillna(0.0)
            color = plots.COLORS[i % len(plots.COLORS)]
            style = "-" if i < len(plots.COLORS) else "--"
            axis.plot(mean.index, mean, style, color=color, label=intervals.text(label))
            low, high = mean - 2 * sd, mean + 2 * sd
            if value == "val_loss":  # a log axis ends somewhere above 0
                low = np.maximum(low, 0.5 * by_epoch.min())
            axis.fill_between(mean.index, low, high, color=color, alpha=0.15, lw=0)
            rows = pd.DataFrame({"mean": mean, "sd": sd}).reset_index()
            table.append(rows.assign(task=task, optimizer=label))
        axis.set(title=intervals.text(task), xlabel="epoch")
        if value == "val_loss":
            axis.set_yscale("log")
    for axis in panels[len(tasks) :]:
        axis.set_visible(False)
    panels[0].legend(frameon=False, fontsize=8)
    what = "loss" if value == "val_loss" else "accuracy"
    number = 3 if value == "val_loss" else 11
    oracles = ", ".join(f"{task}: {label}" for task, label in found.best.items())
    return Drawn(
        f"figure{number}",
        f"Validation {what} by epoch (Figure {number})",
        "Mean ± 2 standard deviations over runs that did not diverge "
        f"({int(found.runs['diverged'].sum())} of all did). Oracles: "
        f"{oracles or 'none'}.",
        figure,
        pd.concat(table, ignore_index=True),
    )


def stability_and_performance(found):
    """Figure 4: optimization stability against validation loss where students learn."""
    task = frames.trained_on(found.runs)
    labels = evaluated.compared(found)
    here = found._replace(runs=found.runs[found.runs["task"] == task])
    losses = evaluated.fits(here, labels, "log_best_val_loss")
    jumps = evaluated.fits(here, labels, "stability")
    table = losses.merge(jumps, on=["task", "optimizer"], suffixes=("_loss", "_jumps"))
    table = table.dropna(subset=["mean_loss", "mean_jumps"])
    if not len(table):
        return None
    figure, axes = plots.canvas(1, 1)
    axis = axes[0][0]
    for row in table.itertuples():
        i = labels.index(row.optimizer)
        axis.errorbar(
            row.mean_jumps,
            row.mean_loss,
            xerr=intervals.arms(
                row.mean_jumps, row.mean_low_jumps, row.mean_high_jumps
            ),
            yerr=intervals.arms(row.mean_loss, row.mean_low_loss, row.mean_high_loss),
            **intervals.style(i, row.optimizer),
        )
    axis.set(xlabel="optimization stability", ylabel="log best validation loss")
    intervals.legend(axis)
    return Drawn(
        "figure4",
        f"Stability against performance on {task} (Figure 4)",
        "Optimization stability (App. D.2) and best log validation loss, means with "
        "95 % intervals; lower left is better.",
        figure,
        table,
    )


def stability(found):
    """Figure 5: optimization stability by optimizee."""
    labels = evaluated.compared(found)
    table = evaluated.fits(found, labels, "stability")
    if table["mean"].isna().all():
        return None
    figure, axes = plots.canvas(1, 1, _wide(found))
    intervals.dots(axes[0][0], table, labels)
    axes[0][0].set(yscale="log", ylabel="σ_η of validation loss")
    return Drawn(
        "figure5",
        "Optimization stability (Figure 5)",
        "How much validation loss jumps between epochs (App. D.2), means with 95 % "
        "intervals; lower is more stable.",
        figure,
        table,
    )


def stability_and_losses(found):
    """Figure 10: stability, training loss and validation loss, uncropped."""
    labels = evaluated.compared(found)
    figure, axes = plots.canvas(3, 1, _wide(found))
    parts = []
    for axis, value, name in (
        (axes[0][0], "log_stability", "σ_η of log validation loss"),
        (axes[1][0], "log_train_loss", "log training loss"),
        (axes[2][0], "log_best_val_loss", "log best validation loss"),
    ):
        parts.append(evaluated.fits(found, labels, value).assign(figure=value))
        intervals.dots(axis, parts[-1], labels)
        axis.set(ylabel=name)
    table = pd.concat(parts, ignore_index=True)
    if table["mean"].isna().all():
        return None
    return Drawn(
        "figure10",
        "Stability and losses, uncropped (Figure 10)",
        "Stability of the logarithm (as the released code has it), training loss of "
        "the last epoch, and best validation loss; means with 95 % intervals.",
        figure,
        table,
    )


def meta_stability(found):
    """Figure 6: meta-stability against the size of a perturbation in training."""
    table = evaluated.meta_stability_table(found)
    table = table[table["input_noise"] == 0.0]
    noisy = table[table["perturbation"] != ""]
    if not len(noisy) or noisy["meta"].isna().all():
        return None
    figure, axes = plots.canvas(1, 1)
    axis = axes[0][0]
    for i, (kind, rows) in enumerate(noisy.groupby("perturbation", sort=False)):
        rows = rows.sort_values("radius")
        arms = intervals.arms(rows["meta"], rows["meta_low"], rows["meta_high"])
        axis.errorbar(
            rows["radius"], rows["meta"], yerr=arms, **intervals.style(i, kind)
        )
    for row in table[table["perturbation"] == ""].dropna(subset="meta").itertuples():
        axis.axhline(
            row.meta,
            color="#888888",
            lw=0.8,
            ls="--",
            label=intervals.text(row.optimizer),
        )
    axis.set(xscale="log", xlabel="ε", ylabel="σ_α of log training loss")
    intervals.legend(axis)
    return Drawn(
        "figure6",
        "Meta-stability against perturbation (Figure 6)",
        "Standard deviation between replicates of the log training loss on "
        f"{frames.trained_on(found.runs)} (App. D.1), 95 % intervals; lower is more "
        "stable.",
        figure,
        table,
    )


def larger(found):
    """Figure 8: what is left of the reference's advantage as optimizees grow."""
    if found.reference is None:
        return None
    opponents = ["oracle", *(["adam"] if "adam" in found.pool else [])]
    runs = frames.with_oracle(found.runs, found.best)
    sizes = found.tasks.set_index("task")["parameters"]
    figure, axes = plots.canvas(1, 1)
    axis, parts = axes[0][0], []
    for i, opponent in enumerate(opponents):
        table = frames.verdicts(runs, opponent, "log_best_val_loss")
        if not len(table):
            continue
        rows = table[table["optimizer"] == found.reference].copy()
        rows["parameters"] = rows["task"].map(sizes)
        rows = rows.sort_values("parameters").assign(opponent=opponent)
        arms = intervals.arms(rows["difference"], rows["low"], rows["high"])
        axis.errorbar(
            rows["parameters"],
            rows["difference"],
            yerr=arms,
            **intervals.style(i, opponent),
        )
        parts.append(rows)
    if not parts:
        return None
    for row in parts[0].itertuples():
        axis.annotate(
            intervals.text(row.task),
            (row.parameters, row.difference),
            fontsize=7,
            rotation=30,
        )
    axis.axhline(0.0, color="#888888", lw=0.8)
    axis.set(xscale="log", xlabel="parameters", ylabel="nats over the opponent")
    intervals.legend(axis)
    return Drawn(
        "figure8",
        "Larger optimizees (Figure 8)",
        f"Log validation loss of {found.reference} minus that of the oracle and of "
        "Adam, with 95 % intervals, by the optimizee's number of parameters.",
        figure,
        pd.concat(parts, ignore_index=True),
    )


def _lines(found, curves):
    """Returns curves: of the reference's best replicate, of Choice, of the oracle."""
    if not len(curves):
        return curves.assign(line="") if len(curves.columns) else _no_lines()
    parts = []
    if found.reference is not None:
        replicate = frames.best_replicate(found.runs, found.reference)
        mine = (curves["optimizer"] == found.reference) & (
            curves["replicate"] == replicate
        )
        parts.append(curves[mine].assign(line=found.reference))
    for label in evaluated.labels_of(found.runs[found.runs["kind"] == "choice"]):
        replicate = frames.best_replicate(found.runs, label)
        mine = (curves["optimizer"] == label) & (curves["replicate"] == replicate)
        parts.append(curves[mine].assign(line=label))
    for task, label in found.best.items():
        mine = (curves["task"] == task) & (curves["optimizer"] == label)
        parts.append(curves[mine].assign(line="oracle"))
    return pd.concat(parts, ignore_index=True) if parts else _no_lines()


def _no_lines():
    return pd.DataFrame(columns=["task", "line"])


def _wide(found):
    """Returns the width of a panel with a column per optimizee, inches."""
    return max(4.8, 1.2 + 0.9 * found.tasks["task"].nunique())
