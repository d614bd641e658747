"""What optimizers reached on optimizees, out of an evaluation's records, for cards."""

import math

from tf_amalgam import frames, terms

TERMS = ("epochs", "warmup_steps", "warmup_learning_rate")
# What an optimizee is, beside its name.
OPTIMIZEE = ("dataset", "parameters", "batch_size", "examples")


def results(records, rivals=()):
    """Returns a data frame, a row for each optimizer on each optimizee.

    Losses are means over runs that did not diverge: `validation_loss` the best one of
    all epochs, `test_…` of that epoch's weights. `oracle` is the best of the pool by
    validation on that optimizee, `rival` the best of some others; each with its mean
    validation loss. `not_learned` counts runs that did not diverge, and stayed above
    the loss of the initial weights or of a net that always says the same; none where
    older records do not tell the latter.

    Args:
        records: as `records.read_all` returns them.
        rivals: labels of optimizers to hold the others against.

    Raises:
        ValueError: where records were made on other terms than others, or for a rival
            that there is no record of.
    """
    terms.check(records)
    runs = frames.runs(records)
    labels = list(dict.fromkeys(runs["optimizer"]))
    if unknown := [label for label in rivals if label not in labels]:
        raise ValueError(
            f"There are no records of {', '.join(unknown)}. There are: "
            f"{', '.join(labels)}."
        )
    runs["not_learned"] = ~runs["learned"] & ~runs["diverged"]
    means = runs.groupby(["task", "optimizer"])["best_val_loss"].mean()
    table = runs.groupby(["optimizer", "kind", "task"], sort=False, as_index=False).agg(
        seeds=("seed", "nunique"),
        seed_numbers=("seed", lambda found: " ".join(map(str, sorted(set(found))))),
        diverged=("diverged", "sum"),
        not_learned=("not_learned", "sum"),
        validation_loss=("best_val_loss", "mean"),
        validation_sd=("best_val_loss", "std"),
        test_loss=("test_at_best_loss", "mean"),
        test_accuracy=("test_at_best_accuracy", "mean"),
    )
    untold = {
        (record["task"], record["optimizer"])
        for record in records
        if "constant_loss" not in record
    }
    pairs = zip(table["task"], table["optimizer"], strict=True)
    table["not_learned"] = table["not_learned"].astype(object)
    table.loc[[pair in untold for pair in pairs], "not_learned"] = math.nan
    pools = {"oracle": frames.pool_of(runs), "rival": list(rivals)}
    for name, pool in pools.items():
        best = frames.oracle(runs, pool)
        table[name] = [best.get(task, "") for task in table["task"]]
        table[f"{name}_loss"] = [
            means[task, best[task]] if task in best else math.nan
            for task in table["task"]
        ]
    sizes = frames.optimizees(records).set_index("task")
    for name in OPTIMIZEE:
        table[name] = table["task"].map(sizes[name])
    presets = {r["optimizer"]: r["settings"]["preset"] for r in records}
    table["preset"] = table["optimizer"].map(presets)
    for name in TERMS:
        (table[name],) = {record["settings"][name] for record in records}
    return table.rename(columns={"task": "optimizee"})


def rows(table, label) -> list[dict]:
    """Returns the rows of one optimizer as dicts; what is not known is ""."""
    found = table[table["optimizer"] == label].astype(object)
    return found.where(found.notna(), "").to_dict("records")
