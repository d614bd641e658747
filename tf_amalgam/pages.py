"""Sections of a report as one HTML page or as Markdown; no TensorFlow here."""

import base64
import html
import pathlib
import urllib.parse
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from tf_amalgam import files, records

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 76em;
       padding: 0 1em; color: #222; }
table { border-collapse: separate; border-spacing: 0; font-size: 13px; }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd;
         white-space: nowrap; }
th { border-bottom: 2px solid #888; position: sticky; top: 0; background: #fff;
     z-index: 1; }
th:first-child, td:first-child, .text { text-align: left; }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff; }
th:first-child { z-index: 2; }
.two :is(th, td):first-child { min-width: 10em; max-width: 10em; overflow: hidden;
                               box-sizing: border-box; text-overflow: ellipsis; }
.two :is(th, td):nth-child(2) { position: sticky; left: 10em; background: #fff; }
.two th:nth-child(2) { z-index: 2; }
img { max-width: 100%; } figure { margin: 1.5em 0; overflow-x: auto; }
figcaption { color: #555; font-size: 13px; }
td.better { background: #d9f0e3; } td.worse, td.diverged { background: #f9dfd5; }
.wide { overflow: auto; max-height: 85vh; margin: 1em 0; }
summary { cursor: pointer; }
"""
# What stands above this line in a page of Markdown is its reader's own.
FOLLOWS = "<!-- amalgam-report writes what follows -->"


class Section(NamedTuple):
    """A titled figure, table or row of pictures.

    Attributes:
        name: of its files.
        title, caption: what it is, and how to read it.
        figure: of matplotlib, which pages show once it is written as a picture.
        table: a data frame.
        marks: a data frame like `table` with the classes of its cells.
        pictures: paths of PNG files.
        long: of many rows: HTML folds it up, Markdown leaves it out.
        digits: of numbers in the table.
        numbers: a data frame to write beside the page, as `name`.csv.
    """

    name: str
    title: str
    caption: str
    figure: Any = None
    table: pd.DataFrame | None = None
    marks: pd.DataFrame | None = None
    pictures: Sequence[pathlib.Path] = ()
    long: bool = False
    digits: int = 4
    numbers: pd.DataFrame | None = None


def write_html(path, title, facts, sections):
    """Writes one page that holds its pictures and needs no network."""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in facts)
    parts = [f"<h1>{html.escape(title)}</h1>", f"<ul>{items}</ul>"]
    parts += [_html(section) for section in sections]
    files.write_text(
        path,
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body></html>\n",
    )


def _html(section):
    heading = f"<h2>{html.escape(section.title)}</h2>"
    beside = f" Numbers: {section.name}.csv." if section.numbers is not None else ""
    caption = html.escape(f"{section.caption}{beside}".strip())
    if section.table is not None:
        table = f'<div class="wide">{_html_table(section)}</div>'
        if section.long:
            rows = f"<summary>{len(section.table)} rows</summary>"
            table = f"<details>{rows}{table}</details>"
        return f"{heading}<p>{caption}</p>{table}"
    pictures = "".join(
        f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode("ascii")}">'
        for path in section.pictures
    )
    return f"<figure>{heading}{pictures}<figcaption>{caption}</figcaption></figure>"


def _html_table(section):
    table, marks = section.table, section.marks
    words = [_is_text(table[name]) for name in table.columns]
    head = "".join(
        f"{_opened('th', 'text' * word)}{html.escape(str(name))}</th>"
        for name, word in zip(table.columns, words, strict=True)
    )
    rows = []
    for i in range(len(table)):
        cells = []
        for j, value in enumerate(table.iloc[i]):
            mark = "" if marks is None else marks.iat[i, j]
            told = html.escape(_cell(value, section.digits))
            kind = f"{mark} {'text' * words[j]}".strip()
            cells.append(f"{_opened('td', kind)}{told}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    two = "two" if section.long and words[:2] == [True, True] else ""
    return (
        f"{_opened('table', two)}<thead><tr>{head}</tr></thead>{''.join(rows)}</table>"
    )


def _opened(tag, kind):
    return f'<{tag} class="{kind}">' if kind else f"<{tag}>"


def _is_text(column):
    """Returns whether a column holds words rather than numbers, formatted or not."""
    return not any(
        isinstance(value, (int, float)) or str(value)[:1] in "+-–0123456789"
        for value in column
        if str(value) and not pd.isna(value)
    )


def check_markdown(path):
    """Raises ValueError for a path where `write_markdown` would lose a reader's words.

    Its small pictures lie in a folder of the page's name without its ending.
    """
    path = pathlib.Path(path)
    if not path.suffix:
        raise ValueError(f"{path} has no ending; expected a path like {path}.md.")
    text = path.read_text("utf-8") if path.is_file() else ""
    if text.strip() and FOLLOWS not in text:
        raise ValueError(
            f"{path} exists and is no page of amalgam-report: all of it would be "
            f"replaced. Add the line {FOLLOWS!r}, below which the page is to be "
            "written, or give another path."
        )


def write_markdown(path, title, facts, sections):
    """Writes a page of Markdown; its small pictures lie in a folder of its name.

    Long tables are left out. What stands in the page above the line `FOLLOWS`, which
    every page of ours has, is kept.
    """
    path = pathlib.Path(path)
    folder = path.with_suffix("")
    parts = [f"# {title}", FOLLOWS]
    before = path.read_text("utf-8") if path.is_file() else ""
    if FOLLOWS in before:
        words = before.partition(FOLLOWS)[0].strip()
        if len(words.splitlines()) > 1:  # more than a title of ours
            parts = [words, FOLLOWS, f"## {title}"]
    parts.append("\n".join(f"- {_text(line)}" for line in facts))
    for section in sections:
        if section.long:
            continue
        parts += [f"## {section.title}", _text(section.caption)]
        if section.table is not None:
            head = [_text(str(name)) for name in section.table.columns]
            rows = [
                [_text(_cell(value, section.digits)) for value in section.table.iloc[i]]
                for i in range(len(section.table))
            ]
            parts.append(records.markdown([head, *rows]))
        for picture in section.pictures:
            files.write_bytes(folder / picture.name, picture.read_bytes())
            where = urllib.parse.quote(f"{folder.name}/{picture.name}")
            parts.append(f"![{section.title}]({where})")
    files.write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _cell(value, digits):
    """Returns a value as text: numbers with so many digits, – for none."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def _text(value):
    """Returns text that is no Markdown of its own."""
    for sign in ("\\", "|", "<", "*", "_", "`", "["):
        value = value.replace(sign, f"\\{sign}")
    return value
