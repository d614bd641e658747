"""What optimizers reached: rows of the files that ship, in words, and failures."""

import functools
import math

from tf_amalgam import files, records, saved

# What was measured of the shipped ones and the teachers, by `benchmarks/zoo.py`.
RESULTS = saved.ZOO / "results.csv"
# Of the default, by seeds that it was not chosen by, beside others.
HELD_OUT = saved.ZOO / "held_out.csv"
# Where they fail, by `benchmarks/limits.py`.
LIMITS = saved.ZOO / "limits.csv"
MARGIN = 0.2 * math.log(10)  # above Adam's loss there, from which on it is a failure
BEHIND = 0.1  # share of the oracle's loss above which it is a failure


def terms(rows) -> str:
    """Returns in words how the results of an optimizer were measured."""
    row = rows[0]
    given = oracle = ""
    if row["kind"] == "analytic":
        given = f'load("{row["optimizer"]}", preset="{row["preset"]}"), '
    elif row["oracle"]:
        oracle = f"; oracle of the {row['preset']} preset"
    return (
        f"measured ({given}warm-up of {row['warmup_steps']:.0f} steps at "
        f"{row['warmup_learning_rate']}; {_seeds(rows)}; losses at the best of "
        f"{row['epochs']:.0f} epochs{oracle})"
    )


def _seeds(rows):
    """Returns the seeds, by optimizee where they are not the same of all."""
    seeds = {row["optimizee"]: str(row["seed_numbers"]).split() for row in rows}
    told = {where: ", ".join(numbers) for where, numbers in seeds.items()}
    if len({*told.values()}) == 1:
        return f"seeds {told[rows[0]['optimizee']]}"
    return "seeds " + "; ".join(f"{where} {found}" for where, found in told.items())


def loss(value, deviation="") -> str:
    """Returns a loss, and its standard deviation where there is one; – for none."""
    return records.figure(*(math.nan if v == "" else v for v in (value, deviation)))


def failures(card) -> list[str]:
    """Returns where an optimizer fails, by its results, a line for each optimizee.

    A failure is a run that diverged or did not learn, or a mean validation loss that is
    more than a tenth above the oracle's, by held-out seeds, too; and a loss far above
    Adam's where inputs are not scaled, or training is long.
    """
    found, uncounted = [], []
    several = [(row, "") for row in card.results]
    several += [(row, " (held-out seeds)") for row in card.held_out]
    for row, seeds in several:
        where, diverged = row["optimizee"] + seeds, row["diverged"]
        if diverged:
            found.append(f"{where}: {diverged:.0f} of {row['seeds']:.0f} runs diverged")
        if (lost := row["not_learned"]) == "":
            uncounted.append(where)
        elif lost:
            found.append(f"{where}: {lost:.0f} of {row['seeds']:.0f} did not learn")
        if not diverged and row["oracle"] and row["oracle_loss"] > 0.0:
            above = row["validation_loss"] / row["oracle_loss"] - 1.0
            if above > BEHIND:
                found.append(f"{where}: {above:.1%} above {row['oracle']}, the oracle")
    if uncounted:
        found.append(f"runs that did not learn: not counted on {', '.join(uncounted)}")
    for row in card.limits:
        if not row["alone"] <= row["adam"] + MARGIN:  # or it is no number
            found.append(
                f"{row['scenario']}: loss {row['alone']:.3g} at the end, Adam "
                f"{row['adam']:.3g}, with guard=True {row['guarded']:.3g}"
            )
    return found


def result(row) -> str:
    """Returns in words what was reached on an optimizee."""
    told = f"{row['optimizee']}: {loss(row['validation_loss'], row['validation_sd'])}"
    told += f" validation, {loss(row['test_loss'])} test"
    if row["test_accuracy"] != "":
        told += f", accuracy {loss(row['test_accuracy'])}"
    if row["diverged"]:
        told += f", {row['diverged']:.0f} diverged"
    if row["not_learned"]:
        told += f", {row['not_learned']:.0f} not learned"
    told += f" ({row['seeds']:.0f} seeds)"
    for kind in ("oracle", "rival"):
        if row.get(kind) and row[kind] != row["optimizer"]:
            told += f"; {kind} {row[kind]} {loss(row[f'{kind}_loss'])}"
    return told


@functools.cache
def measurements(path) -> tuple[dict, ...]:
    """Returns the rows of such a file, none where there is none."""
    return tuple(files.read_csv(path)) if path.is_file() else ()


def of(name, sha256="") -> dict:
    """Returns the rows of a name by the attribute of a card that has them.

    Args:
        name: by which `load` knows an optimizer.
        sha256: of its weights; rows of others are left out. Empty for a teacher.
    """
    return {
        key: tuple(
            row
            for row in measurements(path)
            if (row["optimizer"], row["weights_sha256"]) == (name, sha256)
        )
        for key, path in {
            "results": RESULTS,
            "held_out": HELD_OUT,
            "limits": LIMITS,
        }.items()
    }
