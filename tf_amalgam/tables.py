"""The paper's tables, and more, as data frames; no TensorFlow here."""

import math

import pandas as pd

from tf_amalgam import evaluated, frames, published, stats


def all_tables(given, found) -> dict[str, tuple[str, str, pd.DataFrame]]:
    """Returns name → (title, caption, data frame) of every table."""
    runs = frames.with_oracle(given.runs, given.best)
    tables = {
        "losses": (
            "Best validation loss",
            "Means ± half of their 95 % intervals (linear mixed model, App. D.1).",
            _by_optimizee(runs, "best_val_loss", "{:.4f}"),
        ),
        "accuracies": (
            "Test accuracy, %",
            "Means ± half of their 95 % intervals; measured once, at the end of a run.",
            _by_optimizee(runs, "test_accuracy", "{:.2f}", 100.0),
        ),
        "results": (
            "All results",
            "Means with 95 % intervals (linear mixed model, App. D.1); σ_α: between "
            "replicates, σ_ε: within one. Diverged runs are counted and left out of "
            "the means; “not learned” counts runs whose best validation loss is not "
            "below that of the initial weights. The test split is measured once, at "
            "the end of a run; nothing is chosen by it. Times of runs that shared the "
            "machine (load above 1 or 2) are longer than alone. Where optimizees are "
            "private: the largest ε of the runs, and its δ.",
            _results(runs),
        ),
        "table1": (
            "Optimizees (Table 1)",
            "Trainable parameters, training examples and minibatch.",
            given.tasks,
        ),
        "table4": ("Training times (Table 4)", "", _training_times(given.runs)),
        "table5": (
            "Evaluation stability (Table 5)",
            "σ_ε of the best log validation loss; – where runs diverged or are few.",
            _evaluation_stability(given.runs),
        ),
        "table6": (
            "Meta-stability (Table 6)",
            "σ_α of the log training loss where students were trained, with 95 % "
            "intervals.",
            _meta_stability(given),
        ),
        "oracle": (
            "Against the oracle",
            "Log test loss minus the oracle's (chosen by validation), 95 % interval, "
            "and Hedges' g; equal seeds are paired, and the sample is the means of "
            "replicates where there are several.",
            _against_oracle(runs, given, "log_test_loss"),
        ),
        "oracle_validation": (
            "Against the oracle, on the split that chose it",
            "The same of the best log validation loss, as the paper reports it.",
            _against_oracle(runs, given, "log_best_val_loss"),
        ),
        "reaching": (
            "Time to the oracle's loss",
            "Steps and seconds until the oracle's mean best validation loss, of the "
            "runs that reached it.",
            frames.reaching(found, given.best),
        ),
    }
    for number, text in (
        *((4, published.TABLE4), (5, published.TABLE5), (6, published.TABLE6)),
    ):
        if f"table{number}" in tables and len(tables[f"table{number}"][2]):
            tables[f"published{number}"] = (
                f"Published: Table {number}",
                "As the paper reports it: 4 GPUs, 8 replicates, 25 epochs.",
                published.table(text),
            )
    return {name: table for name, table in tables.items() if len(table[2])}


def _by_optimizee(runs, value, form, scale=1.0):
    """Returns means by optimizer and optimizee, as text."""
    rows: dict[str, dict[str, str]] = {}
    for (label, task), here in runs.groupby(["optimizer", "task"], sort=False):
        fit = stats.mixed_model(here, value)
        told = "–"
        if not math.isnan(fit.mean):
            told = form.format(scale * fit.mean)
        if not math.isnan(fit.mean_high):
            told += f" ± {form.format(scale * (fit.mean_high - fit.mean))}"
        if fit.diverged:
            told += f" ({fit.diverged} diverged)"
        rows.setdefault(label, {})[task] = told
    if all(cell == "–" for cells in rows.values() for cell in cells.values()):
        return pd.DataFrame()
    tasks = list(dict.fromkeys(runs["task"]))
    return pd.DataFrame(
        [[label, *(c.get(task, "–") for task in tasks)] for label, c in rows.items()],
        columns=["optimizer", *tasks],
    )


def _against_oracle(runs, given, value):
    return frames.verdicts(runs, "oracle", value) if given.best else pd.DataFrame()


def _results(runs):
    rows = []
    for (task, optimizer), here in runs.groupby(["task", "optimizer"], sort=False):
        fit = stats.mixed_model(here, "best_val_loss")
        test = stats.mixed_model(here, "test_loss")
        rows.append(
            {
                "optimizee": task,
                "optimizer": optimizer,
                "replicates": here["replicate"].nunique(),
                "runs": fit.runs,
                "diverged": fit.diverged,
                "not_learned": int((~here["learned"]).sum()) - fit.diverged,
                "best_val_loss": fit.mean,
                "low": fit.mean_low,
                "high": fit.mean_high,
                "sigma_alpha": fit.meta,
                "sigma_epsilon": fit.evaluation,
                "test_loss": test.mean,
                "test_low": test.mean_low,
                "test_high": test.mean_high,
                "test_accuracy": here["test_accuracy"].mean(),
                "stability": here["stability"].mean(),
                "ms_per_step": here["milliseconds"].mean(),
                "load": here["load"].mean(),
                "epsilon": here["epsilon"].max(),
                "delta": here["delta"].max(),
                "note": fit.note,
            }
        )
    table = pd.DataFrame(rows)
    private = table["epsilon"].notna().any()
    return table if private else table.drop(columns=["epsilon", "delta"])


def _training_times(runs):
    trained = runs[runs["training_hours"].notna()]
    once = trained.drop_duplicates(["optimizer", "replicate"])
    columns = ["optimizer", "scheme", "teachers", "perturbation"]
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
    optimizers = list(dict.fromkeys(runs["optimizer"]))
    return pd.DataFrame(
        [
            [task, *(cells.get((task, label), math.nan) for label in optimizers)]
            for task in dict.fromkeys(runs["task"])
        ],
        columns=["optimizee", *optimizers],
    )


def _meta_stability(given):
    table = evaluated.meta_stability_table(given)
    table = table[table["replicates"] > 1]
    keys = ["optimizer", "scheme", "teachers", "perturbation", "radius", "input_noise"]
    columns = [*keys, "replicates", "meta", "meta_low", "meta_high", "note"]
    return table[columns].reset_index(drop=True)
