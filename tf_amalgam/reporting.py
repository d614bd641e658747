"""One page of tables and figures out of the records of an evaluation; no TensorFlow."""

import base64
import html
import math
import pathlib
import tempfile

from tf_amalgam import evaluated, figures, files, plots, records, sweep
from tf_amalgam.tables import all_tables

PAGE = "index.html"
SAMPLES = "datasets"

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 76em;
       padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #888; } th:first-child, td:first-child,
th:nth-child(2), td:nth-child(2) { text-align: left; }
img { max-width: 100%; } figure { margin: 1.5em 0; overflow-x: auto; }
figcaption { color: #555; font-size: 13px; }
.better { background: #d9f0e3; } .worse, .diverged { background: #f9dfd5; }
.wide { overflow-x: auto; }
"""


def write_report(folder, output=None, *, pool=None, reference=None) -> pathlib.Path:
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
    page = _page(
        given,
        drawn,
        tables,
        facts=_facts(given, found, records.read_order(folder)),
        failed=sweep.failures(folder),
        samples=sorted((folder / SAMPLES).glob("*.png")),
    )
    files.write_text(output / PAGE, page)
    return output / PAGE


def _page(given, drawn, tables, *, facts, failed, samples):
    optimizers = given.runs["optimizer"].nunique()
    tasks = given.runs["task"].nunique()
    title = f"{optimizers} optimizers on {tasks} optimizees"
    if failed:
        names = ", ".join(p.name.removesuffix(sweep.FAILURE_SUFFIX) for p in failed)
        facts.append(f"{len(failed)} runs failed and have no record: {names}.")
    items = "".join(f"<li>{html.escape(line)}</li>" for line in facts)
    parts = [f"<h1>{title}</h1>", f"<ul>{items}</ul>", _verdicts(given, tables)]
    parts += [_figure(one) for one in drawn]
    if samples:
        pictures = "".join(_image(path.stem, path.read_bytes()) for path in samples)
        parts.append(f"<figure><h2>Data sets (Figure 7)</h2>{pictures}</figure>")
    for name, (heading, caption, table) in tables.items():
        parts.append(_table(heading, caption, table, name))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _facts(given, found, order):
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


def _verdicts(given, tables):
    """Returns who beats, equals and loses to the oracle, optimizee by optimizee."""
    if "oracle" not in tables:
        return ""
    table = tables["oracle"][2]
    tasks, optimizers = list(given.best), list(dict.fromkeys(table["optimizer"]))
    by = {(row.task, row.optimizer): row for row in table.itertuples()}
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *tasks))
    rows = []
    for optimizer in optimizers:
        cells = [f"<td>{html.escape(optimizer)}</td>"]
        for task in tasks:
            row = by.get((task, optimizer))
            if row is None:
                cells.append("<td>–</td>")
                continue
            far = "–" if math.isnan(row.difference) else f"{row.difference:+.2f}"
            told = f"{far} {row.verdict}"
            if row.diverged:
                told += f" ({row.diverged} diverged)"
            cells.append(f'<td class="{row.verdict}">{told}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        "<h2>Against the oracle</h2><p>Mean log test loss minus the oracle's (nats); "
        "better or worse where the 95 % interval leaves out 0. The oracle was chosen "
        'on the validation split.</p><div class="wide"><table>'
        f"<tr>{head}</tr>{''.join(rows)}</table></div>"
    )


def _figure(one):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "figure.png"
        plots.write(one.figure, path)
        picture = _image(one.title, path.read_bytes())
    return (
        f"<figure><h2>{html.escape(one.title)}</h2>{picture}<figcaption>"
        f"{html.escape(one.caption)} Numbers: {one.name}.csv.</figcaption></figure>"
    )


def _image(title, content):
    data = base64.b64encode(content).decode("ascii")
    return f'<img alt="{html.escape(title)}" src="data:image/png;base64,{data}">'


def _table(title, caption, table, name):
    text = table.to_html(
        index=False, border=0, na_rep="–", float_format=lambda v: f"{v:.4g}"
    )
    caption = f"{caption} Numbers: {name}.csv.".strip()
    return (
        f"<h2>{html.escape(title)}</h2><p>{html.escape(caption)}</p>"
        f'<div class="wide">{text}</div>'
    )


def _write_csv(table, path):
    files.write_text(path, table.to_csv(index=False))
