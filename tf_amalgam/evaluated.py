"""What was evaluated, gathered for figures and tables; no TensorFlow here."""

from typing import NamedTuple

import pandas as pd

from tf_amalgam import frames, participants, stats
from tf_amalgam.checks import sequence

# Below so many epochs what a smoothing of 2 epochs leaves of a falling curve is mostly
# its trend: of losses 1/t, without any noise, σ_η of the logarithm is .30 at 3 epochs,
# .16 at 10 and .12 at 25.
STEADY_EPOCHS = 10
# The best of those that a report is asked to compare with.
RIVAL = "best rival"


class Evaluated(NamedTuple):
    """What all figures are drawn of."""

    runs: pd.DataFrame  # `frames.runs`
    curves: pd.DataFrame  # `frames.curves`
    tasks: pd.DataFrame  # `frames.optimizees`
    best: dict  # optimizee → oracle
    rivals: list  # labels of which the best is compared with, too
    best_rivals: dict  # optimizee → the best of them, as the oracle is chosen
    pool: list  # labels of the analytic pool
    reference: str | None  # label against which others are measured
    styles: dict  # label → how it is drawn


def gather(found, pool=None, reference=None, rivals=()) -> Evaluated:
    """Returns records as what figures are drawn of (see `reporting.write_report`)."""
    pool = pool if pool is None else sequence("pool", pool)
    rivals = sequence("rivals", rivals)
    runs = frames.runs(found)
    known = list(dict.fromkeys(runs["optimizer"]))
    for label in [*(pool or ()), *([reference] if reference else []), *rivals]:
        if label not in known:
            raise ValueError(
                f"No record has the optimizer {label!r}. There are: {', '.join(known)}."
            )
    if rivals and RIVAL in known:
        raise ValueError(f"The label {RIVAL!r} is kept for the best of the rivals.")
    pool = frames.pool_of(runs) if pool is None else list(pool)
    return Evaluated(
        runs,
        frames.curves(found),
        frames.optimizees(found),
        frames.oracle(runs, pool),
        list(rivals),
        frames.oracle(runs, rivals),
        pool,
        reference or frames.reference_of(runs),
        participants.styles(runs, pool),
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


# Kinds of what was trained to optimize.
TRAINED = ("learned", "choice")


def single(runs):
    """Returns the labels of trained ones of which one replicate was evaluated."""
    learned = runs[runs["kind"].isin(TRAINED)]
    counts = learned.groupby("optimizer", sort=False)["replicate"].nunique()
    return list(counts.index[counts == 1])


def long_enough(found):
    """Returns whether curves are long enough to tell stability from trend."""
    return found.runs["epochs"].max() >= STEADY_EPOCHS


# At which weights the test split is looked at: by that epoch the oracle is chosen, too.
WEIGHTS = "the weights of the best validation epoch"


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


# What one training of a student is, and what disturbed it.
TRAINING = ("student", "scheme", "teachers", "perturbation", "radius", "input_noise")


def meta_stability_table(found) -> pd.DataFrame:
    """Returns σ_α of students, by what disturbed their training.

    A student of a single replicate, or of which all runs diverged, has none; its note
    says so. Also the paper's Table 6, where `input_noise` varies.
    """
    task = frames.trained_on(found.runs)
    runs = found.runs
    here = runs[(runs["task"] == task) & (runs["kind"] == "learned")]
    keys = ["optimizer", *TRAINING]
    if not len(here):
        return pd.DataFrame(columns=[*keys, *stats.Fit._fields])
    return stats.summary(here, "log_train_loss", keys)
