"""One page of tables and figures out of the records of an evaluation; no TensorFlow."""

import base64
import html
import math
import pathlib
import tempfile

import pandas as pd

from tf_amalgam import figures, files, frames, plots, records, stats, sweep

PAGE = "index.html"
SAMPLES = "datasets.png"

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 76em;
       padding: 0 1em; color: #222; }
table { border-collapse: collapse; font-size: 13px; margin: 1em 0; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd; }
th { border-bottom: 2px solid #888; } th:first-child, td:first-child,
th:nth-child(2), td:nth-child(2) { text-align: left; }
img { max-width: 100%; } figure { margin: 1.5em 0; overflow-x: auto; }
figcaption { color: #555; font-size: 13px; }
.better { background: #d9f0e3; } .worse { background: #f9dfd5; }
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
        ValueError: if there are no records, one cannot be read, or a label of `pool`
            or `reference` is not in them.
    """
    folder = pathlib.Path(folder)
    output = folder / "report" if output is None else pathlib.Path(output)
    found = records.read_all(folder)
    if not found:
        raise ValueError(
            f"There are no records under {folder}. Expected the workdir of an "
            "evaluation, as amalgam-evaluate writes it."
        )
    evaluated = gather(found, pool, reference)
    drawn = figures.all_figures(evaluated)
    tables = all_tables(evaluated, found)
    for one in drawn:
        for suffix in (".png", ".svg"):
            plots.write(one.figure, output / f"{one.name}{suffix}")
        _write_csv(one.data, output / f"{one.name}.csv")
    for name, (_, _, table) in tables.items():
        _write_csv(table, output / f"{name}.csv")
    _write_csv(evaluated.runs, output / "runs.csv")
    samples = folder / SAMPLES
    page = _page(
        evaluated,
        found,
        drawn,
        tables,
        samples.read_bytes() if samples.is_file() else None,
        sweep.failures(folder),
    )
    files.write_text(output / PAGE, page)
    return output / PAGE


def gather(found, pool=None, reference=None) -> figures.Evaluated:
    """Returns records as what figures are drawn of (see `write_report`)."""
    runs = frames.runs(found)
    known = list(dict.fromkeys(runs["optimizer"]))
    for label in [*(pool or ()), *([reference] if reference else [])]:
        if label not in known:
            raise ValueError(
                f"No record has the optimizer {label!r}. There are: {', '.join(known)}."
            )
    pool = frames.pool_of(runs) if pool is None else list(pool)
    return figures.Evaluated(
        runs,
        frames.curves(found),
        frames.optimizees(found),
        frames.oracle(runs, pool),
        pool,
        reference or frames.reference_of(runs),
    )


def all_tables(evaluated, found) -> dict[str, tuple[str, str, pd.DataFrame]]:
    """Returns name → (title, caption, data frame) of every table."""
    runs = frames.with_oracle(evaluated.runs, evaluated.best)
    tables = {
        "results": (
            "All results",
            "Means with 95 % intervals (linear mixed model, App. D.1); σ_α: between "
            "replicates, σ_ε: within one. Diverged runs are counted and left out of "
            "the means; “not learned” counts runs whose best validation loss is not "
            "below that of the initial weights. The test split is measured once, at "
            "the end of a run; nothing is chosen by it.",
            _results(runs),
        ),
        "table1": (
            "Optimizees (Table 1)",
            "Trainable parameters, training examples and minibatch.",
            evaluated.tasks,
        ),
        "table4": ("Training times (Table 4)", "", _training_times(evaluated.runs)),
        "table5": (
            "Evaluation stability (Table 5)",
            "σ_ε of the best log validation loss; – where runs diverged or are few.",
            _evaluation_stability(evaluated.runs),
        ),
        "table6": (
            "Meta-stability (Table 6)",
            "σ_α of the log training loss where students were trained, with 95 % "
            "intervals; the paper's figures for input noise 0, .01, .1 are .104, .485, "
            "1.637.",
            _meta_stability(evaluated),
        ),
        "oracle": (
            "Against the oracle",
            "Log validation loss minus the oracle's, Welch's 95 % interval, and "
            "Hedges' g; the sample is the means of replicates where there are several.",
            frames.verdicts(runs, "oracle") if evaluated.best else pd.DataFrame(),
        ),
        "reaching": (
            "Time to the oracle's loss",
            "Steps and seconds until the oracle's mean best validation loss, of the "
            "runs that reached it.",
            frames.reaching(found, evaluated.best),
        ),
    }
    return {name: table for name, table in tables.items() if len(table[2])}


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
                "test_accuracy": here["test_accuracy"].mean(),
                "stability": here["stability"].mean(),
                "ms_per_step": here["milliseconds"].mean(),
                "epsilon": here["epsilon"].max(),
                "note": fit.note,
            }
        )
    table = pd.DataFrame(rows)
    return table.drop(columns="epsilon") if table["epsilon"].isna().all() else table


def _training_times(runs):
    trained = runs[runs["training_hours"].notna()]
    once = trained.drop_duplicates(["optimizer", "replicate"])
    columns = ["optimizer", "scheme", "teachers", "perturbation"]
    if not len(once):
        return pd.DataFrame(columns=columns)
    return (
        once.groupby(columns, sort=False)
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
    wide = table.pivot(index="task", columns="optimizer", values="evaluation")
    order = list(dict.fromkeys(runs["task"])), list(dict.fromkeys(runs["optimizer"]))
    return wide.loc[order[0], order[1]].rename_axis(columns=None).reset_index()


def _meta_stability(evaluated):
    table = figures.meta_stability_table(evaluated)
    table = table[table["replicates"] > 1]
    keys = ["optimizer", "scheme", "teachers", "perturbation", "radius", "input_noise"]
    columns = [*keys, "replicates", "meta", "meta_low", "meta_high", "note"]
    return table[columns].reset_index(drop=True)


def _page(evaluated, found, drawn, tables, samples, failed):
    optimizers = evaluated.runs["optimizer"].nunique()
    tasks = evaluated.runs["task"].nunique()
    title = f"{optimizers} optimizers on {tasks} optimizees"
    parts = [f"<h1>{title}</h1>", _facts(evaluated, found, failed)]
    if "oracle" in tables:
        parts.append(_verdicts(tables["oracle"][2], evaluated.best))
    parts += [
        _figure(one.title, one.caption, files_name=one.name, figure=one.figure)
        for one in drawn
    ]
    if samples is not None:
        parts.append(_image("Data sets (Figure 7)", "Examples of each.", samples))
    for name, (heading, caption, table) in tables.items():
        parts.append(_table(heading, caption, table, name))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{title}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def _facts(evaluated, found, failed):
    runs = evaluated.runs
    settings = found[0]["settings"]
    versions = sorted(
        {
            ", ".join(f"{k} {v}" for k, v in record["versions"].items())
            for record in found
        }
    )
    seeds = sorted(set(runs["seed"]))
    reference = evaluated.reference or "none (no learned optimizer took part)"
    lines = [
        f"{len(runs)} runs: {int(runs['diverged'].sum())} diverged, "
        f"{int((~runs['learned'] & ~runs['diverged']).sum())} did not learn.",
        f"Each of {settings['epochs']} epochs, warm-up of {settings['warmup_steps']} "
        f"SGD steps at {settings['warmup_learning_rate']}, seeds "
        f"{', '.join(map(str, seeds))}; per seed the same initial weights, minibatches "
        "and warm-up for all.",
        f"The oracle is the best by validation of {', '.join(evaluated.pool)}: "
        + (
            "; ".join(f"{task}: {label}" for task, label in evaluated.best.items())
            or "none"
        )
        + ".",
        f"Reference: {reference}.",
        *(f"Made with {line}." for line in versions),
    ]
    uneven = _uneven(runs)
    if uneven:
        lines.append(f"Missing runs: {uneven}.")
    if failed:
        names = ", ".join(
            path.name.removesuffix(sweep.FAILURE_SUFFIX) for path in failed
        )
        lines.append(f"{len(failed)} runs failed and have no record: {names}.")
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def _uneven(runs):
    """Returns what optimizers lack runs that others of their replicates have."""
    seeds = runs.groupby(["task", "optimizer", "replicate"])["seed"].nunique()
    most = seeds.max()
    short = seeds[seeds < most]
    named = [f"{o} ({r}) on {t}: {n} of {most}" for (t, o, r), n in short.items()]
    replicates = runs.groupby(["optimizer", "task"])["replicate"].nunique()
    for optimizer, counts in replicates.groupby(level=0):
        absent = set(runs["task"]) - set(counts.index.get_level_values("task"))
        named += [f"{optimizer} on {task}: none" for task in sorted(absent)]
        fewer = counts[counts < counts.max()]
        named += [
            f"{o} on {t}: {n} of {counts.max()} replicates"
            for (o, t), n in fewer.items()
        ]
    return "; ".join(named)


def _verdicts(table, best):
    """Returns who beats, equals and loses to the oracle, optimizee by optimizee."""
    tasks, optimizers = list(best), list(dict.fromkeys(table["optimizer"]))
    by = {(row.task, row.optimizer): row for row in table.itertuples()}
    head = "".join(f"<th>{html.escape(name)}</th>" for name in ("", *tasks))
    rows = []
    for optimizer in optimizers:
        cells = [f"<td>{html.escape(optimizer)}</td>"]
        for task in tasks:
            row = by.get((task, optimizer))
            if row is None or math.isnan(row.difference):
                cells.append("<td>–</td>")
                continue
            told = f"{row.difference:+.2f} {row.verdict}"
            if row.diverged:
                told += f" ({row.diverged} diverged)"
            cells.append(f'<td class="{row.verdict}">{told}</td>')
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        "<h2>Against the oracle</h2><p>Mean log validation loss minus the oracle's "
        "(nats); better or worse where Welch's 95 % interval leaves out 0.</p>"
        f'<div class="wide"><table><tr>{head}</tr>{"".join(rows)}</table></div>'
    )


def _figure(title, caption, files_name, figure):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "figure.png"
        plots.write(figure, path)
        return _image(title, f"{caption} Numbers: {files_name}.csv.", path.read_bytes())


def _image(title, caption, content):
    data = base64.b64encode(content).decode("ascii")
    return (
        f'<figure><h2>{html.escape(title)}</h2><img alt="{html.escape(title)}" '
        f'src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}'
        "</figcaption></figure>"
    )


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
