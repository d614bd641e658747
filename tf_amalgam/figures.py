"""The paper's figures from data frames (Huang et al. 2022); no TensorFlow here."""

import pandas as pd

from tf_amalgam import (
    evaluated,
    figures_by_epoch,
    figures_of_stability,
    frames,
    intervals,
    plots,
)
from tf_amalgam.pages import Section

# Of a cropped figure, nats above the reference (the paper crops outliers too).
CROP = 1.5
# Parameters beyond which an optimizee is called larger: some three Train nets.
LARGE = 50_000

READ = "Rows from the best to the worst mean over optimizees"


def all_figures(found: evaluated.Evaluated) -> list[Section]:
    """Returns every figure that the records have data for, in the paper's order."""
    drawn = [
        schemes(found),
        learned(found),
        learned(found, cropped=False),
        learned_accuracy(found),
        figures_by_epoch.validation(found),
        figures_by_epoch.validation(found, "val_accuracy"),
        figures_of_stability.stability_and_performance(found),
        figures_of_stability.stability(found),
        stability_and_losses(found),
        figures_of_stability.meta_stability(found),
        larger(found),
    ]
    return [figure for figure in drawn if figure is not None]


def schemes(found):
    """Figure 1: amalgamated optimizers by validation and training loss."""
    runs = found.runs
    labels = evaluated.labels_of(
        runs[(runs["kind"] == "learned") & runs["amalgamated"]]
    )
    if not labels or found.reference is None:
        return None
    blocks = [
        _relative(found, labels, "log_best_val_loss", "Log best validation loss"),
        _relative(found, labels, "log_train_loss", "Log training loss, last epoch"),
    ]
    return _dots(
        found,
        blocks,
        labels,
        "figure1",
        "Amalgamated optimizers (Figure 1)",
        f"{_over(found)}. {READ} of the validation loss; lower is better.",
    )


def _trained(found):
    """Returns the labels of students and Choice rules."""
    return evaluated.labels_of(found.runs[found.runs["kind"].isin(evaluated.TRAINED)])


def learned(found, cropped=True):
    """Figures 2 and 9: all learned optimizers by validation loss."""
    labels = _trained(found)
    if len(labels) < 2 or found.reference is None:
        return None
    crop = CROP if cropped else None
    block = _relative(
        found, labels, "log_best_val_loss", "Log best validation loss", crop
    )
    above = f" What lies above {CROP} is a triangle at the edge." if cropped else ""
    number = 2 if cropped else 9
    return _dots(
        found,
        [block],
        labels,
        f"figure{number}",
        f"Learned optimizers (Figure {number})",
        f"{_over(found)}. {READ}; lower is better.{above}",
    )


def learned_accuracy(found):
    """Figure 9, accuracy."""
    labels = _trained(found)
    table = evaluated.fits(found, labels, "best_val_accuracy")
    if len(labels) < 2 or table["mean"].isna().all():
        return None
    return _dots(
        found,
        [intervals.Block(table, "Best validation accuracy")],
        labels,
        "figure9_accuracy",
        "Learned optimizers, accuracy (Figure 9)",
        f"{_own_axes()} {READ}; higher is better.",
        highest=True,
    )


def stability_and_losses(found):
    """Figure 10: stability, training loss and validation loss, uncropped."""
    labels = evaluated.compared(found)
    values = {
        "log_best_val_loss": "Log best validation loss",
        "log_train_loss": "Log training loss, last epoch",
    }
    stable = evaluated.long_enough(found)
    if stable:
        values["log_stability"] = "σ_η of log validation loss"
    blocks = [
        intervals.Block(evaluated.fits(found, labels, value).assign(figure=value), name)
        for value, name in values.items()
    ]
    if all(block.table["mean"].isna().all() for block in blocks):
        return None
    jumps = " σ_η: stability of the logarithm, as the released code has it."
    return _dots(
        found,
        blocks,
        labels,
        "figure10",
        "Stability and losses, uncropped (Figure 10)"
        if stable
        else "Losses, uncropped (Figure 10)",
        f"{_own_axes()} {READ} of the validation loss; lower is better."
        f"{jumps if stable else ''}",
    )


def larger(found):
    """Figure 8: what is left of the reference's advantage as optimizees grow."""
    sizes = found.tasks.set_index("task")["parameters"].sort_values(kind="stable")
    if found.reference is None or sizes.max() <= LARGE:
        return None
    runs = frames.with_oracle(found.runs, found.best)
    parts = {}
    others = {"adam"} & {*found.pool} - {found.reference}
    for opponent in ["oracle", *others]:
        table = frames.verdicts(runs, opponent, "log_best_val_loss")
        if len(table):
            rows = table[table["optimizer"] == found.reference].set_index("task")
            rows = rows.assign(parameters=sizes, opponent=opponent)
            rows["beside"] = [
                "" if row["diverged"] else frames.unpaired(row)
                for _, row in rows.iterrows()
            ]
            alone = set(runs.loc[runs["optimizer"] == found.reference, "task"])
            for task in alone - set(rows.index):
                rows.loc[task, ["parameters", "opponent"]] = sizes[task], opponent
                rows.loc[task, "beside"] = f"no {opponent}"
            parts[opponent] = rows.sort_values("parameters", kind="stable")
    if not parts:
        return None
    names = {task: f"{task} ({sizes[task]:,})" for task in sizes.index}
    mine = found.styles[found.reference].color
    colors = [mine if size > LARGE else intervals.GREY for size in sizes]
    figure, axes = plots.canvas(1, len(parts), 3.6, 0.9 + 0.24 * len(sizes))
    for n, (axis, (opponent, rows)) in enumerate(
        zip(axes[0], parts.items(), strict=True)
    ):
        named = rows.rename(index=names, columns={"difference": "mean"})
        named = named.rename(columns={"low": "mean_low", "high": "mean_high"})
        block = intervals.Block(named, f"Nats over {opponent}", zero=True)
        intervals.panel(axis, named, list(names.values()), colors, block, n == 0)
        axis.set_title(block.name, fontsize=9, loc="left")
    above = ", ".join(task for task in sizes.index if sizes[task] > LARGE)
    return Section(
        "figure8",
        "Larger optimizees (Figure 8)",
        f"Log validation loss of {found.reference} minus that of {_and(parts)}, "
        f"with 95 % intervals, by the optimizee's number of parameters. Of more "
        f"than {LARGE:,} are {above}; the others (grey) stand beside them.",
        figure,
        numbers=pd.concat(parts.values()).reset_index(),
    )


def _and(labels):
    """Returns opponents in words."""
    return " and of ".join("the oracle" if k == "oracle" else k for k in labels)


def _relative(found, labels, value, name, crop=None):
    table = evaluated.relative(found, labels, value)
    return intervals.Block(table, name, crop, zero=True, shared=True)


def _over(found):
    return (
        f"Mean log loss minus that of {found.reference} (or the lowest, where that has "
        "none), in nats, with 95 % intervals of the mean by a linear mixed model; an "
        "interval may run over the edge"
    )


def _own_axes():
    return f"Means with 95 % intervals; {intervals.OWN_AXES}."


def _dots(found, blocks, labels, name, title, caption, highest=False):
    rows = intervals.ranked(blocks[0].table, labels, highest)
    lost = any(block.table["diverged"].gt(0).any() for block in blocks)
    beside = " Beside a panel: how many runs diverged (div.)." if lost else ""
    return Section(
        name,
        title,
        f"{caption}{beside}",
        intervals.by_optimizee(blocks, rows, found.styles),
        numbers=pd.concat([block.table for block in blocks], ignore_index=True),
    )
