"""Sections of text, tables and plots, as Markdown with its pictures beside it, or as one HTML file."""

import base64
import html as escape_html
import os
import re
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Section", "html", "markdown"]

STYLE = """body { font: 15px/1.5 sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: 2px 10px; border-bottom: 1px solid #ddd;
text-align: left; white-space: nowrap; } pre { background: #f4f4f4; padding: 8px; } img { max-width: 100%; }"""


@dataclass(frozen=True)
class Section:
    """A part of the page; text and cells may hold `code`, *emphasis* and **strong** text.

    Attributes:
        title: heading.
        text: a paragraph.
        code: commands.
        table: rows of cells, the first one the head.
        figure: PNG.
        figure_name: its file name.
    """

    title: str
    text: str
    code: str = ""
    table: list[tuple[str, ...]] | None = None
    figure: bytes | None = None
    figure_name: str = ""


def markdown(sections: list[Section], path: Path) -> None:
    """Write the sections as Markdown, and their figures beside it."""
    parts = []
    for i, section in enumerate(sections):
        parts += [f"{'#' if i == 0 else '##'} {section.title}", section.text]
        if section.code:
            parts.append("\n".join(f"    {line}" for line in section.code.splitlines()))
        if section.figure:
            _write(path.with_name(section.figure_name), section.figure)
            parts.append(f"![{section.title}]({section.figure_name})")
        if section.table:
            head, *body = section.table
            lines = [head, ["---"] * len(head), *body]
            parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
    _write(path, ("\n\n".join(part for part in parts if part) + "\n").encode())


def html(sections: list[Section], path: Path) -> None:
    """Write the sections as one HTML file."""
    parts = ["<!doctype html>", '<html lang="en"><meta charset="utf-8">', f"<title>{sections[0].title}</title>"]
    parts.append(f"<style>{STYLE}</style>")
    for i, section in enumerate(sections):
        level = 1 if i == 0 else 2
        parts += [f"<h{level}>{_inline(section.title)}</h{level}>", f"<p>{_inline(section.text)}</p>"]
        if section.code:
            parts.append(f"<pre>{escape_html.escape(section.code)}</pre>")
        if section.figure:
            data = base64.b64encode(section.figure).decode()
            parts.append(f'<img alt="{section.title}" src="data:image/png;base64,{data}">')
        if section.table:
            head, *body = section.table
            parts += ["<table>", _row(head, "th"), *(_row(cells, "td") for cells in body), "</table>"]
    _write(path, ("\n".join(parts) + "\n").encode())


def _row(cells: tuple[str, ...], tag: str) -> str:
    return "<tr>" + "".join(f"<{tag}>{_inline(cell)}</{tag}>" for cell in cells) + "</tr>"


def _inline(text: str) -> str:
    text = escape_html.escape(text)
    for pattern, tag in ((r"`(.+?)`", "code"), (r"\*\*(.+?)\*\*", "b"), (r"\*(.+?)\*", "i")):
        text = re.sub(pattern, rf"<{tag}>\1</{tag}>", text)
    return text


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_bytes(content)
    os.replace(partial, path)
