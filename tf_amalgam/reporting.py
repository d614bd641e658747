"""One page of tables and figures out of the records of an evaluation; no TensorFlow."""

import math
import pathlib

import pandas as pd

from tf_amalgam import evaluated, figures, files, pages, plots, records, sweep
from tf_amalgam.tables import all_tables

PAGE = "index.html"
SAMPLES = "datasets"
# Tables for a first look, and those of a row for each optimizee and optimizer.
FIRST = ("losses", "accuracies")
LONG = ("results", "oracle", "oracle_validation", "reaching", "table6")


def write_report(
    folder, output=None, *, pool=None, reference=None, markdown=None
) -> pathlib.Path:
    """Writes the paper's tables and figures of an evaluation; returns the page's path.

    The page holds its figures and needs no network. Beside it lie every figure as PNG
    and SVG and the numbers behind every figure and table as CSV.

    Args:
        folder: where `evaluate` wrote its records; nothing else is read.
        output: folder of the report; `folder/report` by default.
        pool: labels out of which the oracle is taken; all analytic optimizers by
            default. The oracle is chosen by validation loss (Huang et al. 2022, 5).
        reference: label against which others are measured; by default the
            amalgamated optimizer with the best validation losses.
        markdown: path of a page of Markdown to write besides, without the long
            tables; small pictures lie in a folder of its name.

    Raises:
        ValueError: if there are no records, one cannot be read, they were made on
            unequal terms, or a label of `pool` or `reference` is not in them.
    """
    folder = pathlib.Path(folder)
    output = folder / "report" if output is None else pathlib.Path(output)
    found = records.read_all(folder)
    if not found:
        raise ValueError(
            f"There are no records under {folder}. Expected the workdir of an "
            "evaluation, as amalgam-evaluate writes it."
        )
    evaluated.check_terms(found)
    given = evaluated.gather(found, pool, reference)
    drawn = figures.all_figures(given)
    tables = all_tables(given, found)
    for one in drawn:
        for suffix in (".png", ".svg"):
            plots.write(one.figure, output / f"{one.name}{suffix}")
        _write_csv(one.data, output / f"{one.name}.csv")
    for name, (_, _, table) in tables.items():
        _write_csv(table, output / f"{name}.csv")
    _write_csv(given.runs, output / "runs.csv")
    title = (
        f"{given.runs['optimizer'].nunique()} optimizers on "
        f"{given.runs['task'].nunique()} optimizees"
    )
    facts = _facts(given, found, records.read_order(folder), sweep.failures(folder))
    samples = sorted((folder / SAMPLES).glob("*.png"))
    sections = _sections(given, drawn, tables, samples)
    pages.write_html(output / PAGE, title, facts, sections)
    if markdown is not None:
        pages.write_markdown(markdown, title, facts, sections)
    return output / PAGE


def _facts(given, found, order, failed):
    """Returns what was run, what is missing, and what was chosen, in sentences."""
    runs, settings = given.runs, found[0]["settings"]
    seeds = ", ".join(map(str, sorted(set(runs["seed"]))))
    pool = ", ".join(given.pool)
    chosen = "; ".join(f"{task}: {label}" for task, label in given.best.items())
    without = [task for task in dict.fromkeys(runs["task"]) if task not in given.best]
    lines = [
        f"{len(runs)} runs: {int(runs['diverged'].sum())} diverged, "
        f"{int((~runs['learned'] & ~runs['diverged']).sum())} did not learn.",
        f"Each of {settings['epochs']} epochs, warm-up of {settings['warmup_steps']} "
        f"SGD steps at {settings['warmup_learning_rate']}, seeds {seeds}; per seed the "
        "same initial weights, minibatches and warm-up for all.",
        f"The oracle is the best by validation of {pool}: {chosen}."
        if pool
        else "No analytic optimizer took part, so there is no oracle.",
    ]
    if pool and without:
        lines.append(
            f"No oracle on {', '.join(without)}: every member of the pool has diverged "
            "or missing runs there."
        )
    reference = given.reference or "none (no learned optimizer took part)"
    lines.append(f"Reference: {reference}.")
    versions = {tuple(record["versions"].items()) for record in found}
    for version in sorted(versions):
        lines.append(f"Made with {', '.join(f'{k} {v}' for k, v in version)}.")
    if missing := _missing(runs, order):
        lines.append(f"Missing runs: {'; '.join(missing)}.")
    if failed:
        names = ", ".join(p.name.removesuffix(sweep.FAILURE_SUFFIX) for p in failed)
        lines.append(f"{len(failed)} runs failed and have no record: {names}.")
    return lines


def _missing(runs, order):
    """Returns what some optimizers have not run that others, or other replicates, have.

    Args:
        runs: `frames.runs`.
        order: names of optimizees and optimizers that should be there.
    """
    tasks = dict.fromkeys([*order["task"], *runs["task"]])
    labels = dict.fromkeys([*order["optimizer"], *runs["optimizer"]])
    seeds, found = set(runs["seed"]), []
    by = runs.groupby(["optimizer", "task", "replicate"])["seed"].agg(set)
    replicates = runs.groupby("optimizer")["replicate"].agg(set)
    for label in labels:
        for task in tasks:
            expected = sorted(replicates.get(label, {0}))
            absent = [r for r in expected if (label, task, r) not in by.index]
            if absent == expected:
                found.append(f"{label} on {task}: none")
                continue
            found += [f"{label} ({r}) on {task}: none" for r in absent]
            for r in expected:
                lacks = seeds - by.get((label, task, r), seeds)
                if lacks:
                    told = ", ".join(map(str, sorted(lacks)))
                    found.append(f"{label} ({r}) on {task}: seeds {told}")
    return found


def _sections(given, drawn, tables, samples):
    """Returns the page's sections, in order."""
    found = [
        pages.Section(
            one.name, one.title, f"{one.caption} Numbers: {one.name}.csv.", one.figure
        )
        for one in drawn
    ]
    if samples:
        found.append(
            pages.Section("figure7", "Data sets (Figure 7)", "", pictures=samples)
        )
    found += [
        pages.Section(
            name,
            title,
            f"{caption} Numbers: {name}.csv.".strip(),
            table=table,
            long=name in LONG,
        )
        for name, (title, caption, table) in tables.items()
    ]
    first = [_verdicts(given, tables["oracle"][2])] if "oracle" in tables else []
    glances = [one for one in found if one.name in FIRST]
    return [*first, *glances, *(one for one in found if one.name not in FIRST)]


def _verdicts(given, table):
    """Returns who beats, equals and loses to the oracle, optimizee by optimizee."""
    rows, marks = [], []
    for label in dict.fromkeys(table["optimizer"]):
        here = table[table["optimizer"] == label].set_index("task")
        cells = [_verdict(here, task) for task in given.best]
        mean = here["difference"].reindex(list(given.best)).mean(skipna=False)
        told = "–" if math.isnan(mean) else f"{mean:+.2f}"
        rows.append([label, *(said for said, _ in cells), told])
        marks.append(["", *(verdict for _, verdict in cells), ""])
    columns = ["optimizer", *given.best, "mean"]
    return pages.Section(
        "verdicts",
        "Against the oracle",
        "Mean log test loss minus the oracle's (nats); better or worse where the 95 % "
        "interval leaves out 0; the last column is the mean over optimizees. The "
        "oracle was chosen on the validation split.",
        table=pd.DataFrame(rows, columns=columns),
        marks=pd.DataFrame(marks, columns=columns),
    )


def _verdict(rows, task):
    """Returns what a cell says, and the verdict."""
    if task not in rows.index:
        return "–", ""
    row = rows.loc[task]
    far = "–" if math.isnan(row["difference"]) else f"{row['difference']:+.2f}"
    lost = f" ({row['diverged']} diverged)" if row["diverged"] else ""
    return f"{far} {row['verdict']}{lost}", row["verdict"]


def _write_csv(table, path):
    files.write_text(path, table.to_csv(index=False))
