"""The paper's tables, and more, as data frames; no TensorFlow here."""

import math

import pandas as pd

from tf_amalgam import evaluated, frames, participants, published, stats
from tf_amalgam.pages import Section


def all_tables(given, found) -> list[Section]:
    """Returns every table that the records have data for.

    Args:
        given: `evaluated.Evaluated`.
        found: the records.
    """
    runs = frames.with_oracle(given.runs, given.best)
    tables = [
        Section(
            "participants",
            "Who took part",
            "Settings: of analytic optimizers the preset (whose learning rates are "
            "tuned where students are trained), unless they were given by hand, which "
            "records do not say; of Keras' own whether the learning rate is Keras' "
            "default. Meta-updates and hours are means of the replicates.",
            table=participants.table(found, given.pool),
        ),
        Section(
            "results",
            "All results",
            "Means with 95 % intervals (linear mixed model, App. D.1); σ_α: between "
            "replicates, σ_ε: within one. Diverged runs are counted and left out of "
            "the means; “not learned” counts runs whose best validation loss is not "
            "below that of the initial weights, and of a net that always says the same "
            "(where the loss is a cross-entropy of labels), which are in the means. "
            f"The test split is measured at {evaluated.WEIGHTS}; nothing is chosen by "
            "it. Times of runs that shared the machine (load above 1 or 2) are longer "
            "than alone. "
            "Where optimizees are private: the largest ε of the runs, and its δ.",
            table=_results(runs, evaluated.long_enough(given)),
            long=True,
        ),
        Section(
            "table1",
            "Optimizees (Table 1)",
            "Trainable parameters, training examples and minibatch.",
            table=given.tasks,
        ),
        Section(
            "table4",
            "Training times (Table 4)",
            "Means of the replicates; those of optimal choice hold the training of a "
            "Choice rule that was trained with the student. What a run has begun from "
            "took more, before it. –: not known.",
            table=_training_times(given.runs),
        ),
        Section(
            "table5",
            "Evaluation stability (Table 5)",
            "σ_ε of the best log validation loss; – where runs diverged or are few.",
            table=_evaluation_stability(given.runs),
            digits=2,
        ),
        Section(
            "table6",
            "Meta-stability (Table 6)",
            f"σ_α of the log training loss on {frames.trained_on(given.runs)}, with "
            "95 % intervals.",
            table=_meta_stability(given),
        ),
        *_against_oracle(runs, given),
        Section(
            "reaching",
            "Time to the oracle's loss",
            "Steps and seconds until the oracle's mean best validation loss, of the "
            "runs that reached it.",
            table=frames.reaching(found, given.best),
            long=True,
        ),
    ]
    tables = [one._replace(numbers=one.table) for one in tables if len(one.table)]
    return [*tables, *_published({one.name for one in tables})]


def _published(names):
    """Returns the paper's own tables beside which ours stand."""
    tables = {
        "table4": (
            "4 GPUs; optimal choice holds the training of its Choice rule",
            published.table(published.TABLE4),
        ),
        # As ours: optimizers are rows.
        "table5": (
            "8 replicates, 25 epochs",
            _transposed(published.table(published.TABLE5)),
        ),
        "table6": ("6 replicates", published.table(published.TABLE6)),
    }
    return [
        Section(
            f"published{name[-1]}",
            f"Published: Table {name[-1]}",
            f"As the paper reports it: {how}.",
            table=table,
            numbers=table,
        )
        for name, (how, table) in tables.items()
        if name in names
    ]


def _transposed(table):
    return table.set_index("task").T.rename_axis("optimizer").reset_index()


def _against_oracle(runs, given):
    if not given.best:
        return []
    return [
        Section(
            "oracle",
            "Against the oracle, in full",
            f"Log test loss at {evaluated.WEIGHTS}, minus the oracle's (chosen by "
            "validation), 95 % interval, and Hedges' g; equal seeds are paired, and "
            "the sample is the means of replicates where there are several.",
            table=frames.verdicts(runs, "oracle"),
            long=True,
        ),
        Section(
            "oracle_validation",
            "Against the oracle, on the split that chose it",
            "The same of the best log validation loss, as the paper reports it.",
            table=frames.verdicts(runs, "oracle", "log_best_val_loss"),
            long=True,
        ),
    ]


def _results(runs, stable):
    rows = []
    for (task, optimizer), here in runs.groupby(["task", "optimizer"], sort=False):
        fit = stats.mixed_model(here, "best_val_loss")
        test = stats.mixed_model(here, "test_at_best_loss")
        lost = int(here["diverged"].sum())
        rows.append(
            {
                "optimizee": task,
                "optimizer": optimizer,
                "replicates": here["replicate"].nunique(),
                "runs": fit.runs,
                "diverged": lost,
                "not_learned": int((~here["learned"]).sum()) - lost,
                "best_val_loss": fit.mean,
                "low": fit.mean_low,
                "high": fit.mean_high,
                "sigma_alpha": fit.meta,
                "sigma_epsilon": fit.evaluation,
                "test_loss": test.mean,
                "test_low": test.mean_low,
                "test_high": test.mean_high,
                "test_accuracy": here["test_at_best_accuracy"].mean(),
                "stability": here["stability"].mean(),
                "ms_per_step": here.loc[~here["diverged"], "milliseconds"].mean(),
                "load": here.loc[~here["diverged"], "load"].mean(),
                "epsilon": here["epsilon"].max(),
                "delta": here["delta"].max(),
                "note": fit.note,
            }
        )
    table = pd.DataFrame(rows)
    private = table["epsilon"].notna().any()
    left_out = {"epsilon": not private, "delta": not private, "stability": not stable}
    return table.drop(columns=[name for name, leave in left_out.items() if leave])


def _training_times(runs):
    trained = runs[(runs["trained_on"] != "") | runs["training_hours"].notna()]
    once = trained.drop_duplicates(["optimizer", "replicate"])
    combined = (once["kind"] == "learned") & once["amalgamated"]
    once = once.assign(scheme=once["scheme"].where(combined, ""))
    columns = ["optimizer", "scheme", "teachers", "perturbation", "begun_from"]
    if not len(once):
        return pd.DataFrame(columns=columns)
    return (
        once.groupby(columns, sort=False, dropna=False)
        .agg(
            replicates=("replicate", "nunique"),
            meta_updates=("meta_updates", "mean"),
            hours=("training_hours", "mean"),
        )
        .reset_index()
    )


def _evaluation_stability(runs):
    table = stats.summary(runs, "log_best_val_loss")
    table.loc[table["diverged"] > 0, "evaluation"] = math.nan
    cells = {(row.task, row.optimizer): row.evaluation for row in table.itertuples()}
    tasks = list(dict.fromkeys(runs["task"]))
    return pd.DataFrame(
        [
            [label, *(cells.get((task, label), math.nan) for task in tasks)]
            for label in dict.fromkeys(runs["optimizer"])
        ],
        columns=["optimizer", *tasks],
    )


def _meta_stability(given):
    """Returns σ_α, unless no student has several replicates."""
    table = evaluated.meta_stability_table(given)
    keys = ["optimizer", "scheme", "teachers", "perturbation", "radius", "input_noise"]
    told = ["replicates", "runs", "diverged", "meta", "meta_low", "meta_high", "note"]
    if set(table["optimizer"]) <= set(evaluated.single(given.runs)):
        return pd.DataFrame(columns=[*keys, *told])
    return table[[*keys, *told]].reset_index(drop=True)
