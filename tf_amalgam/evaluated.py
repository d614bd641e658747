"""What was evaluated, gathered for figures and tables; no TensorFlow here."""

from typing import NamedTuple

import pandas as pd

from tf_amalgam import frames, stats, terms


class Evaluated(NamedTuple):
    """What all figures are drawn of."""

    runs: pd.DataFrame  # `frames.runs`
    curves: pd.DataFrame  # `frames.curves`
    tasks: pd.DataFrame  # `frames.optimizees`
    best: dict  # optimizee → oracle
    pool: list  # labels of the analytic pool
    reference: str | None  # label against which others are measured


def check_terms(found):
    """Raises ValueError unless the records can be compared (see `terms.check`)."""
    terms.check(found)


def gather(found, pool=None, reference=None) -> Evaluated:
    """Returns records as what figures are drawn of (see `reporting.write_report`)."""
    runs = frames.runs(found)
    known = list(dict.fromkeys(runs["optimizer"]))
    for label in [*(pool or ()), *([reference] if reference else [])]:
        if label not in known:
            raise ValueError(
                f"No record has the optimizer {label!r}. There are: {', '.join(known)}."
            )
    pool = frames.pool_of(runs) if pool is None else list(pool)
    return Evaluated(
        runs,
        frames.curves(found),
        frames.optimizees(found),
        frames.oracle(runs, pool),
        pool,
        reference or frames.reference_of(runs),
    )


def labels_of(runs):
    """Returns the labels of runs, each once."""
    return list(dict.fromkeys(runs["optimizer"]))


def compared(found):
    """Returns the pool, Keras' own optimizers and the reference."""
    runs = found.runs
    keras = labels_of(runs[runs["kind"] == "keras"])
    reference = [found.reference] if found.reference is not None else []
    return list(dict.fromkeys([*reference, *found.pool, *keras]))


def fits(found, labels, value):
    """Returns a fit for each optimizee and label (`stats.summary`)."""
    here = found.runs[found.runs["optimizer"].isin(labels)]
    if not len(here):
        columns = ["task", "optimizer", *stats.Fit._fields]
        return pd.DataFrame(columns=columns)
    return stats.summary(here, value)


def relative(found, labels, value):
    """Returns fits with the reference's mean of each optimizee taken off."""
    table = fits(found, [*labels, found.reference], value)
    reference = table[table["optimizer"] == found.reference].set_index("task")["mean"]
    lowest = table["task"].map(table.groupby("task")["mean"].min())
    zero = table["task"].map(reference).fillna(lowest)  # where all its runs diverged
    for column in ("mean", "mean_low", "mean_high"):
        table[column] = table[column] - zero
    kept = table["optimizer"].isin(labels)
    return table[kept].reset_index(drop=True).assign(figure=value)


def meta_stability_table(found) -> pd.DataFrame:
    """Returns σ_α of students with several replicates, by what disturbed training.

    Also the paper's Table 6, where `input_noise` varies.
    """
    task = frames.trained_on(found.runs)
    runs = found.runs
    here = runs[(runs["task"] == task) & (runs["kind"] == "learned")]
    keys = ["optimizer", "scheme", "teachers", "perturbation", "radius", "input_noise"]
    if not len(here):
        return pd.DataFrame(columns=[*keys, *stats.Fit._fields])
    return stats.summary(here, "log_train_loss", keys)
