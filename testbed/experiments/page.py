"""A page of sections: in Markdown, the same in HTML, and a smaller one for the documentation.

Lives here: headings, files, the pictures' sizes. Never here: what a section says (`report`,
`studies`).
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template

import markdown as to_html
from PIL import Image

from testbed.sim.league.report import markdown
from testbed.sim.league.summary import Table

ALL_CASES = "All cases"

PICTURES_MAX = 20
"""In the documentation."""

_COLOURS = 48


@dataclass(frozen=True)
class Section:
    """A part of the page: its tables and pictures under one heading.

    details: tables that the documentation goes without.
    """

    title: str
    text: str
    tables: Sequence[Table]
    pictures: Sequence[Path] = ()
    details: Sequence[Table] = ()


def write_docs(
    folder: Path, title: str, parts: Iterable[tuple[str, str, Sequence[Section]]], about: str
) -> Path:
    """`results.md` with pictures in `img/results`, small enough to be committed; its path.

    Without details. One picture a section, and where an experiment has one over all its cases
    only that: at most PICTURES_MAX in all. Pictures of before are removed.
    """
    images = folder / "img" / "results"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob("*.png"):
        old.unlink()
    kept = []
    left = PICTURES_MAX
    for heading, text, sections in parts:
        over_all = any(section.title == ALL_CASES for section in sections)
        shown = []
        for section in sections:
            pictures = list(section.pictures)
            # The first of all cases is the mean's; the last of one case has its events, if any.
            chosen = pictures[:1] if section.title == ALL_CASES else pictures[-1:]
            if left < 1 or (over_all and section.title != ALL_CASES):
                chosen = []
            left -= len(chosen)
            small = [_small(path, images / path.name) for path in chosen]
            shown.append(replace(section, pictures=small, details=()))
        kept.append((heading, text, shown))
    path = folder / "results.md"
    path.write_text(_page(folder, title, kept, about))
    return path


def _small(path: Path, to: Path) -> Path:
    """The same in a few colours."""
    with Image.open(path) as image:
        image.convert("RGB").quantize(_COLOURS).save(to, optimize=True)
    return to


def write(
    folder: Path, title: str, parts: Iterable[tuple[str, str, Sequence[Section]]], about: str
) -> Path:
    """`results.md` and `index.html`; parts: (title, about, sections). The page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    page = _page(folder, title, parts, about)
    (folder / "results.md").write_text(page)
    body = to_html.markdown(page, extensions=["tables"])
    path = folder / "index.html"
    path.write_text(_PAGE.substitute(title=html.escape(title), body=body))
    return path


def _page(
    folder: Path, title: str, parts: Iterable[tuple[str, str, Sequence[Section]]], about: str
) -> str:
    lines = [f"# {title}", about]
    for heading, text, sections in parts:
        lines += [f"## {heading}", text]
        for section in sections:
            lines += [f"### {section.title}", section.text]
            tables = (*section.tables, *section.details)
            lines += [_deeper(markdown(table)) for table in tables]
            lines += [f"![{p.stem}]({p.relative_to(folder)})" for p in section.pictures]
    return "\n\n".join(line for line in lines if line) + "\n"


def _deeper(text: str) -> str:
    """A table's heading two levels further down."""
    return f"##{text}"


_PAGE = Template("""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>$title</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: .15rem .6rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr:nth-child(even) { background: #8882 }
img { max-width: 100% }
</style>
$body
</html>
""")
