"""Measured results of the shipped optimizers, and their cards.

    python benchmarks/zoo.py runs/evaluate_cpu [--rivals authors-mean …]
        [--add | --held-out]
    python benchmarks/zoo.py --cards
    python benchmarks/zoo.py --table

Reads the records of an evaluation (`amalgam-evaluate`) and writes
`tf_amalgam/zoo/results.csv`, a row for each shipped optimizer and teacher on each
optimizee, and a card for each shipped optimizer into `docs/zoo`. What has a shipped
optimizer's name but not its weights, or other options, is refused. With --add rows of
shipped optimizers are added, or take the place of older ones, beside the oracle of
those that are there; with rivals, whose records may be alone, theirs stand beside all.
With --held-out the records are of seeds that nothing was chosen by, and go into
`held_out.csv`; the table of docs/results.md is printed. --cards writes the cards anew,
out of files that are there; --table prints what all reached, as docs/results.md has it.
"""

import argparse
import functools
import itertools
import json
import math
import pathlib
import statistics
import sys

import pandas as pd

from tf_amalgam import (
    cards,
    exporting,
    files,
    frames,
    lineup,
    measured,
    reached,
    records,
    rules,
    saved,
    terms,
)

WARM_UP = ("warmup_steps", "warmup_learning_rate")
# Columns of results that are empty where nothing is known.
NUMBERS = (
    *("validation_loss", "validation_sd", "test_loss", "test_accuracy"),
    *("oracle_loss", "rival_loss"),
)
CARDS = pathlib.Path(__file__).resolve().parents[1] / "docs" / "zoo"
# Files of earlier versions do not hold their validations, which were drawn when they
# were trained: a picture of docs/images, and the line in it.
TOGETHER = "cpu_form_validation"
DRAWN = {
    "choice-large": (TOGETHER, "choice large"),
    "choice-rule-large": (TOGETHER, "rule of the large"),
    "choice-rule-small": (TOGETHER, "rule of the small"),
    "choice-small": (TOGETHER, "choice small"),
    "mean-small": (TOGETHER, "mean small"),
    "min-max-large": (TOGETHER, "min-max large"),
    "min-max-small-gaussian": (TOGETHER, "min-max small, Gaussian"),
    "rnnprop": (TOGETHER, "RNNProp alone"),
    "stronger": (TOGETHER, "Stronger Baselines"),
}


def results(found, rivals=(), beside=()):
    """Returns a row for each optimizer that has a card on each optimizee.

    Args:
        found: records.
        rivals: labels of others' optimizers, the best of which stands in each row.
        beside: labels that have rows, too.

    Raises:
        ValueError: where a record was made with other weights than those that ship, or
            with options that `load` does not give, or on other terms than the others.
    """
    shipped = {name: saved.find(name)[2]["sha256"] for name in saved.shipped_names()}
    for record in found:
        name = record["optimizer"]
        weights = record["optimizer_config"].get("weights_sha256")
        if name in shipped and weights != shipped[name]:
            raise ValueError(
                f"A record of {name} was made with weights {weights}; those that ship "
                f"are {shipped[name]}. Evaluate those."
            )
        if name in (*shipped, *rules.TEACHERS):
            check_options(record)
    table = measured.results(found, rivals)
    table["weights_sha256"] = table["optimizer"].map(shipped).fillna("")
    return table[table["optimizer"].isin([*shipped, *rules.TEACHERS, *beside])]


def check_options(record):
    """Raises ValueError if a run's optimizer was not as `load` gives it by its name.

    What an older record does not tell is not looked at.
    """
    name, settings = record["optimizer"], record["settings"]
    own = saved.find(name)[2] if name in saved.shipped_names() else settings
    options = [own[key] for key in WARM_UP]
    expected = _as_loaded(name, settings["preset"], *options)
    told = {k: v for k, v in record["optimizer_config"].items() if k in expected}
    if found := terms.differences({k: expected[k] for k in told}, told):
        raise ValueError(
            f"A record of {name} was made with {found[0].name} "
            f"{found[0].here}, where load gives {found[0].there}. Evaluate it by its "
            "name, or under another label."
        )


@functools.cache
def _as_loaded(name, preset, warmup_steps, warmup_learning_rate):
    (named,) = lineup.lineup(
        [name],
        preset=preset,
        warmup_steps=warmup_steps,
        warmup_learning_rate=warmup_learning_rate,
    )
    return json.loads(json.dumps(named.config))


def added(there, found, rivals=()):
    """Returns a table with the rows of shipped optimizers, in place of older ones.

    Args:
        there: the table, with the oracle of each optimizee, and the teachers' rows.
        found: records; those of optimizees that the table does not have are left out.
        rivals: labels of others' optimizers, the best of which takes the place of that
            which stands in the rows of an optimizee.

    Raises:
        ValueError: where they are of other seeds, epochs or terms than the table.
    """
    found = [record for record in found if record["task"] in set(there["optimizee"])]
    mine = results(found)
    # A teacher's row that is there belongs to the oracle.
    shipped = mine["optimizer"].isin(saved.shipped_names())
    mine = mine[shipped | ~mine["optimizer"].isin(there["optimizer"])]
    mine = mine.copy()
    of_all = there.drop_duplicates("optimizee").set_index("optimizee")
    others = measured.results(found, rivals)
    others = others[others["optimizer"].isin(rivals)]
    shared = ("seed_numbers", "preset", *measured.TERMS, *measured.OPTIMIZEE)
    for name, rows in itertools.product(shared, (mine, others)):
        if (expected := rows["optimizee"].map(of_all[name])).ne(rows[name]).any():
            raise ValueError(
                f"The records' {name} is {list(rows[name])}, the table's "
                f"{list(expected)}."
            )
    if rivals:
        known = others[others["rival"] != ""]  # on others none could be the best
        best = known.drop_duplicates("optimizee").set_index("optimizee")
        there = there.copy()
        for name in ("rival", "rival_loss"):
            new = there["optimizee"].map(best[name])
            there[name] = new.fillna(there[name]) if name in there else new
        of_all = there.drop_duplicates("optimizee").set_index("optimizee")
    for name in ("oracle", "oracle_loss", "rival", "rival_loss"):
        if name in there:
            mine[name] = mine["optimizee"].map(of_all[name])
    if "not_learned" not in there:  # tables of before do not say
        there = there.assign(not_learned="")
    rows = pd.concat([there, mine[there.columns]])
    return rows.drop_duplicates(["optimizer", "optimizee"], keep="last")


def check_held_out(table, chosen_by):
    """Raises ValueError if some seeds are among those that optimizers were chosen by.

    Args:
        table: the rows of `results`.
        chosen_by: the rows that the cards have already.
    """
    seeds, others = (
        {int(n) for numbers in rows["seed_numbers"] for n in numbers.split()}
        for rows in (table, chosen_by)
    )
    if shared := sorted(seeds & others):
        raise ValueError(
            f"Seeds {shared} are among those of {reached.RESULTS.name}, by which "
            "optimizers were chosen. Evaluate by others (evaluate.seeds)."
        )


def page(table) -> str:
    """Returns as Markdown what the default and others reached, and log ratios to it.

    Args:
        table: rows of `results`, the default's, the oracle's and rivals' among them.
    """
    losses = table.pivot_table("validation_loss", "optimizee", "optimizer", sort=False)
    known = (*saved.shipped_names(), *rules.TEACHERS)
    rivals = [name for name in losses if name not in known]
    head = ["optimizee", saved.DEFAULT, "the oracle", "log ratio", *rivals]
    lines, ratios = [head + ["log ratio to the best"] * bool(rivals)], []
    for row in measured.rows(table, saved.DEFAULT):
        others = [losses[name][row["optimizee"]] for name in rivals]
        mine, best = row["validation_loss"], row["oracle_loss"]
        against = [best, row["rival_loss"]] if others else [best]
        ratios.append([_ratio(mine, other) for other in against])
        told = [f"{_short(mine)} ± {_short(row['validation_sd'])}"]
        told += [f"{_short(best)} ({row['oracle']})", _signed(ratios[-1][0])]
        told += [*map(_short, others), *map(_signed, ratios[-1][1:])]
        lines.append([row["optimizee"], *told])
    oracle, *rival = map(_signed, map(_mean, zip(*ratios, strict=True)))
    lines.append(["mean", "", "", oracle, *[""] * len(rivals), *rival])
    return records.markdown(lines)


def overview(table) -> str:
    """Returns as Markdown how far all are from the oracle and the best rival.

    Args:
        table: rows of `results`, beside rivals; of each optimizer all optimizees.
    """
    tasks = list(dict.fromkeys(table["optimizee"]))
    rows = {}
    for name in dict.fromkeys(table["optimizer"]):
        mine = {row["optimizee"]: row for row in measured.rows(table, name)}
        oracle, rival = (
            [_ratio(mine[t]["validation_loss"], mine[t][best]) for t in tasks]
            for best in ("oracle_loss", "rival_loss")
        )
        rows[name] = [*oracle, statistics.mean(oracle), statistics.mean(rival)]

    def place(name):  # who lost all runs of an optimizee has no mean, and comes last
        mean = rows[name][-2]
        return math.isnan(mean), mean

    lines = [["optimizer", *tasks, "mean", "mean, to the best rival"]]
    lines += [[name, *map(_signed, rows[name])] for name in sorted(rows, key=place)]
    return records.markdown(lines)


def _ratio(mine, other):
    """Returns the log ratio of two losses; NaN where one is not known."""
    return math.nan if "" in (mine, other) else math.log(mine / other)


def _mean(ratios):
    known = [ratio for ratio in ratios if not math.isnan(ratio)]
    return statistics.mean(known) if known else math.nan


def _short(loss):
    return "–" if loss == "" or math.isnan(loss) else f"{loss:.4f}".removeprefix("0")


def _signed(ratio):
    if math.isnan(ratio):
        return "–"
    return f"{ratio:+.3f}".replace("+0.", "+.").replace("-0.", "-.").replace("-", "−")


def _read(path):
    """Returns such a table; numbers are numbers where some are not known."""
    unknown = {name: [""] for name in NUMBERS}
    return pd.read_csv(
        path, keep_default_na=False, na_values=unknown, dtype={"seed_numbers": str}
    )


def write_cards(folder=CARDS):
    """Writes the card of each shipped optimizer; returns their names."""
    reached.measurements.cache_clear()
    for name in saved.shipped_names():
        exporting.write_card(cards.card(name), folder / name, drawn(name))
    return saved.shipped_names()


def drawn(name):
    """Returns as Markdown where validations that a file does not hold are drawn."""
    if name not in DRAWN:
        return ""
    picture, line = DRAWN[name]
    told = f"![validation by meta-update](../images/{picture}.png)"
    return f"{told}\n\n(Its validations are “{line}”.)"


def tell_left_out(found, rivals, oracles):
    """Prints who cannot be the oracle or the best rival, for lack of runs."""
    runs = frames.runs(found)
    pools = {"oracle": frames.pool_of(runs) if oracles else [], "best rival": rivals}
    for name, pool in pools.items():
        for label, tasks in frames.left_out(runs, pool).items():
            print(f"{label} is not the {name} on {', '.join(tasks)}: it lacks runs.")
        nobody = set(runs["task"]) - set(frames.oracle(runs, pool))
        if pool and nobody:
            print(f"No {name} on {', '.join(sorted(nobody))}: all lack runs.")


def main():
    """Writes the files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", help="of the evaluation")
    parser.add_argument("--rivals", nargs="*", default=[], help="labels of records")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--add", action="store_true", help="keep the rows there are")
    how.add_argument("--held-out", action="store_true", help="of seeds of their own")
    how.add_argument("--cards", action="store_true", help="write nothing but cards")
    how.add_argument("--table", action="store_true", help="print what all reached")
    given = parser.parse_args()
    if given.table:
        print(overview(_read(reached.RESULTS)))
        return
    if given.cards:
        print(f"{len(write_cards())} cards: {CARDS}")
        return
    if not given.folder:
        parser.error(
            "Give the folder of an evaluation's records, or --cards, or --table."
        )
    path = reached.HELD_OUT if given.held_out else reached.RESULTS
    found = records.read_all(given.folder)
    if not found:
        sys.exit("There are no records in this folder. Run amalgam-evaluate first.")
    if given.add:
        there = _read(path)
        table = added(there, found, given.rivals)
        if others := {record["task"] for record in found} - {*there["optimizee"]}:
            print(f"Left out, since not all are there: {', '.join(sorted(others))}.")
    else:
        table = results(found, given.rivals, given.rivals if given.held_out else ())
    tell_left_out(found, given.rivals, oracles=not given.add)
    if given.held_out:
        check_held_out(table, _read(reached.RESULTS))
    text = table.to_csv(index=False, float_format="%.5g", lineterminator="\n")
    files.write_text(path, text)
    print(f"{len(table)} rows: {path}")
    if given.held_out and saved.DEFAULT in set(table["optimizer"]):
        print(page(_read(path)))
    print(f"{len(write_cards())} cards: {CARDS}")


if __name__ == "__main__":
    main()
