"""One page of tables and figures out of the records of an evaluation; no TensorFlow."""

import pathlib

import pandas as pd

from tf_amalgam import (
    evaluated,
    facts,
    figures,
    files,
    pages,
    plots,
    records,
    sweep,
    terms,
)
from tf_amalgam.glances import all_glances
from tf_amalgam.tables import all_tables

PAGE = "index.html"
# Before the figures; all other tables come after them.
FIRST = "participants"


def write_report(
    folder, output=None, *, pool=None, reference=None, rivals=(), markdown=None
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
        rivals: labels; a table says how all others stand against the best of these,
            chosen as the oracle is.
        markdown: path of a page of Markdown to write besides, without the long
            tables; small pictures lie in a folder of its name. What stands in it above
            the line `pages.FOLLOWS`, words of yours, is kept.

    Raises:
        ValueError: if there are no records, one cannot be read, they were made on
            unequal terms, a label of `pool`, `reference` or `rivals` is not in them,
            or `markdown` is a file without that line.
    """
    if markdown is not None:
        markdown = pathlib.Path(markdown).expanduser()
        pages.check_markdown(markdown)
    folder = pathlib.Path(folder).expanduser()
    output = pathlib.Path(output or folder / "report").expanduser()
    found = records.read_all(folder)
    if not found:
        raise ValueError(
            f"There are no records under {folder}. Expected the workdir of an "
            "evaluation, as amalgam-evaluate writes it."
        )
    terms.check(found)
    given = evaluated.gather(found, pool, reference, rivals)
    sections = _sections(given, found, sorted((folder / records.SAMPLES).glob("*.png")))
    sections = [_written(one, output) for one in sections]
    _write_csv(given.runs, output / "runs.csv")
    missing = facts.missing_runs(given.runs, records.read_order(folder))
    _write_csv(pd.DataFrame({"missing": missing}), output / "missing.csv")
    lines = facts.all_facts(given, found, missing, sweep.failures(folder))
    title = (
        f"{given.runs['optimizer'].nunique()} optimizers on "
        f"{given.runs['task'].nunique()} optimizees"
    )
    pages.write_html(output / PAGE, title, lines, sections)
    if markdown is not None:
        pages.write_markdown(markdown, title, lines, sections)
    return output / PAGE


def _sections(given, found, samples):
    """Returns the page's sections, in order."""
    tables = all_tables(given, found)
    images = pages.Section("figure7", "Data sets (Figure 7)", "", pictures=samples)
    return [
        *all_glances(given, found),
        *(one for one in tables if one.name == FIRST),
        *figures.all_figures(given),
        *([images] if samples else []),
        *(one for one in tables if one.name != FIRST),
    ]


def _written(section, output):
    """Writes a section's figure and numbers; returns it with the figure's picture."""
    if section.numbers is not None:
        _write_csv(section.numbers, output / f"{section.name}.csv")
    if section.figure is None:
        return section
    png, svg = (output / f"{section.name}{suffix}" for suffix in (".png", ".svg"))
    plots.write(section.figure, png, svg)
    return section._replace(pictures=[png])


def _write_csv(table, path):
    files.write_text(path, table.to_csv(index=False))
