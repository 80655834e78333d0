"""The pieces of which pages are made: plain HTML, everything inside the file, nothing to load.

What runs on a page lies in it too, and its policy lets exactly that run.
"""

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from diffprune.report.pages.style import CSS
from diffprune.report.tables.table import MISSING, Table

KINDS = {"md": "text/markdown", "csv": "text/csv", "tex": "text/x-tex", "svg": "image/svg+xml", "png": "image/png"}


def document(title: str, body: Iterable[str], scripts: Sequence[str] = ()) -> str:
    """A whole page; its policy forbids the browser to load anything from anywhere, and to run anything but `scripts`."""
    allowed = f"; script-src {' '.join(map(fingerprint, scripts))}" if scripts else ""
    policy = f"default-src 'none'; style-src 'unsafe-inline'; img-src data:{allowed}"
    return "\n".join([
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{escape(title)}</title>", f"<style>{CSS}</style>", "</head>", "<body>", "<main>",
        f"<h1>{escape(title)}</h1>", *body, "</main>", *(f"<script>{script}</script>" for script in scripts),
        "</body>", "</html>", ""])


def fingerprint(script: str) -> str:
    """The script as a content security policy names it (file:// pages have no origin that a policy could name)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def section(title: str, *content: str) -> str:
    """With a heading; empty when there is nothing in it."""
    head = f'<section id="{anchor(title)}">\n<h2>{escape(title)}</h2>'
    return "\n".join([head, *content, "</section>"]) if any(content) else ""


def anchor(title: str) -> str:
    """What a link within the page calls the section."""
    return "-".join(word for word in "".join(c if c.isalnum() else " " for c in title.lower()).split())


def contents(titles: Iterable[str]) -> str:
    """Links to the sections."""
    links = "".join(f'<a href="#{anchor(title)}">{escape(title)}</a>' for title in titles)
    return f'<nav aria-label="Contents">{links}</nav>'


def paragraph(content: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(content)}</p>' if kind else f"<p>{escape(content)}</p>"


def table(header: list[str], body: Iterable[Iterable[str]], kind: str = "") -> str:
    """Cells of text; the first of each line names it. Scrolls by itself where it is wider than the screen."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    lines = "\n".join(line(*cells) for cells in body)
    head = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return f'<div class="scroll {kind}" tabindex="0"><table>{head}<tbody>\n{lines}\n</tbody></table></div>'


def sortable(shown: Table, kind: str = "", links: Mapping[str, str] | None = None) -> str:
    """A whole table, which the page's script makes sortable, with what is best in bold.

    `links` are {name in the first column: the address that it leads to}.
    """
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in shown.header)
    lines = "\n".join(f"<tr>{''.join(cell(shown, i, j, links or {}) for j in range(len(entries)))}</tr>"
                      for i, entries in enumerate(shown.body))
    return (f'<div class="scroll {kind}" tabindex="0"><table class="sortable"><thead><tr>{head}</tr></thead>'
            f"<tbody>\n{lines}\n</tbody></table></div>")


def cell(shown: Table, i: int, j: int, links: Mapping[str, str]) -> str:
    """One cell; `data-value` is the number to sort by."""
    written = shown.body[i][j]
    if j == 0:
        return f'<th scope="row">{link(written, links[written]) if written in links else name(written)}</th>'
    content = text(written)
    number = shown.numbers[i][j] if shown.numbers else None
    value = "" if number is None else f' data-value="{number!r}"'
    return f"<td{value}><b>{content}</b></td>" if (i, j) in shown.best else f"<td{value}>{content}</td>"


def line(title: str, *cells: str) -> str:
    return f'<tr><th scope="row">{text(title)}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in cells) + "</tr>"


def text(cell: str) -> str:
    """An arrow never stands alone on a line."""
    return escape(cell).replace(" ↑", "&nbsp;↑").replace(" ↓", "&nbsp;↓")


def name(cell: str) -> str:
    """A configuration's name, which may break after an underscore where there is little room."""
    return text(cell).replace("_", "_<wbr>")


def facts(title: str, known: Mapping[str, Any]) -> str:
    """A small table of names and values under a heading."""
    if not known:
        return ""
    body = ((name, MISSING if value is None else str(value)) for name, value in known.items())
    return f"<div><h3>{escape(title)}</h3>{table([], body)}</div>"


def columns(*parts: str) -> str:
    """Side by side where the screen is wide enough."""
    return f'<div class="facts">{"".join(parts)}</div>'


def link(title: str, address: str) -> str:
    return f'<a href="{escape(quote(address))}">{name(title)}</a>'


def downloads(files: Mapping[str, str | bytes | None]) -> str:
    """Links that save what lies in the page itself."""
    links = "".join(f'<a download="{escape(file)}" href="{address(file, content)}">{name(file)}</a>'
                    for file, content in sorted(files.items()) if content is not None)
    return f'<nav aria-label="Files">{links}</nav>'


def address(file: str, content: str | bytes) -> str:
    """The content as a data URL, of the kind that the file's name says."""
    content = content.encode() if isinstance(content, str) else content
    return f"data:{KINDS[file.rpartition('.')[2]]};base64,{base64.b64encode(content).decode()}"


def folded(title: str, *content: str) -> str:
    """Shut until it is asked for."""
    return "\n".join([f"<details><summary>{escape(title)}</summary>", *content, "</details>"])


def preformatted(content: str) -> str:
    return f"<pre>{escape(content)}</pre>"
