"""Sections of a report as one HTML page or as Markdown; no TensorFlow here."""

import base64
import html
import pathlib
import tempfile
from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from tf_amalgam import files, plots, records

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
# Dots per inch of a picture beside a Markdown page, which is read at half its size.
SMALL = 75


class Section(NamedTuple):
    """A titled figure, table or row of pictures.

    Attributes:
        name: of its files.
        title, caption: what it is, and how to read it.
        figure: of matplotlib.
        table: a data frame; numbers are written with four digits.
        marks: a data frame like `table` with the classes of its cells.
        pictures: paths of PNG files.
        long: of many rows: Markdown leaves it out.
    """

    name: str
    title: str
    caption: str
    figure: Any = None
    table: pd.DataFrame | None = None
    marks: pd.DataFrame | None = None
    pictures: Sequence[pathlib.Path] = ()
    long: bool = False


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
    caption = html.escape(section.caption)
    if section.table is not None:
        table = _html_table(section.table, section.marks)
        return f'{heading}<p>{caption}</p><div class="wide">{table}</div>'
    images = [path.read_bytes() for path in section.pictures]
    if section.figure is not None:
        images.append(_png(section.figure))
    pictures = "".join(
        f'<img alt="{html.escape(section.title)}" src="data:image/png;base64,'
        f'{base64.b64encode(image).decode("ascii")}">'
        for image in images
    )
    return f"<figure>{heading}{pictures}<figcaption>{caption}</figcaption></figure>"


def _html_table(table, marks):
    head = "".join(f"<th>{html.escape(str(name))}</th>" for name in table.columns)
    rows = []
    for i in range(len(table)):
        cells = []
        for j, value in enumerate(table.iloc[i]):
            mark = "" if marks is None else marks.iat[i, j]
            opened = f'<td class="{mark}">' if mark else "<td>"
            cells.append(f"{opened}{html.escape(_cell(value))}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table><thead><tr>{head}</tr></thead>{''.join(rows)}</table>"


def write_markdown(path, title, facts, sections):
    """Writes a page of Markdown; its small pictures lie in a folder of its name.

    Long tables are left out.
    """
    path = pathlib.Path(path)
    folder = path.with_suffix("")
    parts = [f"# {title}", "\n".join(f"- {_text(line)}" for line in facts)]
    for section in sections:
        if section.long:
            continue
        parts += [f"## {section.title}", _text(section.caption)]
        if section.table is not None:
            head = [_text(str(name)) for name in section.table.columns]
            rows = [
                [_text(_cell(value)) for value in section.table.iloc[i]]
                for i in range(len(section.table))
            ]
            parts.append(records.markdown([head, *rows]))
        images = {picture.name: picture.read_bytes() for picture in section.pictures}
        if section.figure is not None:
            images[f"{section.name}.png"] = _png(section.figure, SMALL)
        for name, image in images.items():
            files.write_bytes(folder / name, image)
            parts.append(f"![{section.title}]({folder.name}/{name})")
    files.write_text(path, "\n\n".join(part for part in parts if part) + "\n")


def _cell(value):
    """Returns a value as text: numbers with four digits, – for none."""
    if isinstance(value, str):
        return value
    if pd.isna(value):
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _text(value):
    """Returns text that is no Markdown of its own."""
    for sign in ("\\", "|", "<", "*", "_", "`", "["):
        value = value.replace(sign, f"\\{sign}")
    return value


def _png(figure, dpi=100):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "figure.png"
        plots.write(figure, path, dpi)
        return path.read_bytes()
