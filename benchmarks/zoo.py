"""Measured results of the shipped optimizers, for their cards.

    python benchmarks/zoo.py runs/evaluate_cpu

Reads the records of an evaluation (`amalgam-evaluate`) and writes
`tf_amalgam/zoo/results.csv`: a row for each shipped optimizer and teacher on each
optimizee. What has a shipped optimizer's name but not its weights is refused.
"""

import argparse
import sys

from tf_amalgam import cards, files, frames, records, rules, saved, terms


def results(found):
    """Returns one row for each optimizer that has a card, on each optimizee.

    Args:
        found: records.

    Raises:
        ValueError: where a record was made with other weights than those that ship, or
            on other terms than the others.
    """
    terms.check(found)
    shipped = saved.shipped_names()
    for record in found:
        name = record["optimizer"]
        if name in shipped:
            weights = record["optimizer_config"].get("weights_sha256")
            expected = saved.find(name)[2]["sha256"]
            if weights != expected:
                raise ValueError(
                    f"A record of {name} was made with weights {weights}; those that "
                    f"ship are {expected}. Evaluate those."
                )
    runs = frames.runs(found)
    oracle = frames.oracle(runs, frames.pool_of(runs))
    means = runs.groupby(["task", "optimizer"])["best_val_loss"].mean()
    rows = runs[runs["optimizer"].isin([*shipped, *rules.TEACHERS])]
    table = rows.groupby(["optimizer", "kind", "task"], sort=False, as_index=False).agg(
        seeds=("seed", "nunique"),
        epochs=("epochs", "max"),
        diverged=("diverged", "sum"),
        validation_loss=("best_val_loss", "mean"),
        validation_sd=("best_val_loss", "std"),
        test_loss=("test_at_best_loss", "mean"),
        test_accuracy=("test_at_best_accuracy", "mean"),
    )
    table["oracle"] = table["task"].map(oracle)
    table["oracle_loss"] = [
        means.get((row.task, row.oracle)) for row in table.itertuples()
    ]
    for name in ("preset", "warmup_steps", "warmup_learning_rate"):
        (table[name],) = {record["settings"][name] for record in found}
    return table.rename(columns={"task": "optimizee"})


def main():
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", help="of the evaluation")
    found = records.read_all(parser.parse_args().folder)
    if not found:
        sys.exit("There are no records in this folder. Run amalgam-evaluate first.")
    table = results(found)
    text = table.to_csv(index=False, float_format="%.5g", lineterminator="\n")
    files.write_text(cards.RESULTS, text)
    print(f"{len(table)} rows: {cards.RESULTS}")


if __name__ == "__main__":
    main()
