"""The pieces of which pages are made: plain HTML, everything inside the file, nothing to load and nothing to run."""

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any
from urllib.parse import quote

from diffprune.report.grid import Strip
from diffprune.report.style import CSS
from diffprune.report.table import MISSING

PIXELATED_BELOW = 1000  # pixels; narrower strips are enlarged, and small images keep their pixels then


def document(title: str, body: Iterable[str]) -> str:
    """A whole page; its policy forbids the browser to load anything from anywhere."""
    policy = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    return "\n".join([
        "<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        f"<title>{escape(title)}</title>", f"<style>{CSS}</style>", "</head>", "<body>", "<main>",
        f"<h1>{escape(title)}</h1>", *body, "</main>", "</body>", "</html>", ""])


def section(title: str, *content: str) -> str:
    """With a heading; empty when there is nothing in it."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *content, "</section>"]) if any(content) else ""


def paragraph(content: str, kind: str = "") -> str:
    return f'<p class="{kind}">{escape(content)}</p>' if kind else f"<p>{escape(content)}</p>"


def table(header: list[str], body: Iterable[Iterable[str]], kind: str = "") -> str:
    """Cells of text; the first of each line names it. Scrolls by itself where it is wider than the screen."""
    head = "".join(f'<th scope="col">{text(cell)}</th>' for cell in header)
    lines = "\n".join(line(*cells) for cells in body)
    head = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    return f'<div class="scroll {kind}" tabindex="0"><table>{head}<tbody>\n{lines}\n</tbody></table></div>'


def line(name: str, *cells: str) -> str:
    return f'<tr><th scope="row">{text(name)}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in cells) + "</tr>"


def text(cell: str) -> str:
    """An arrow never stands alone on a line."""
    return escape(cell).replace(" ↑", "&nbsp;↑").replace(" ↓", "&nbsp;↓")


def facts(title: str, known: Mapping[str, Any]) -> str:
    """A small table of names and values under a heading."""
    if not known:
        return ""
    body = ((name, MISSING if value is None else str(value)) for name, value in known.items())
    return f"<div><h3>{escape(title)}</h3>{table([], body)}</div>"


def columns(*parts: str) -> str:
    """Side by side where the screen is wide enough."""
    return f'<div class="facts">{"".join(parts)}</div>'


def figure(svg: str | None, caption: str) -> str:
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>" if svg else ""


def pictures(shown: Iterable[Strip]) -> str:
    """Strips below each other; they scroll together where the screen is narrow, so that columns stay aligned."""
    return f'<div class="scroll" tabindex="0">{"".join(map(picture, shown))}</div>'


def picture(strip: Strip) -> str:
    """One model's images in a row, under its name."""
    sharp = ' class="pixels"' if strip.width < PIXELATED_BELOW else ""
    alt = f"{strip.count} images of the model: {strip.title}" if strip.count > 1 else f"Images: {strip.title}"
    return (f'<div class="strip"><h3>{escape(strip.title)}</h3><img{sharp} width="{strip.width}" '
            f'height="{strip.height}" alt="{escape(alt)}" src="data:image/png;base64,{strip.png}"></div>')


def link(title: str, address: str) -> str:
    return f'<a href="{escape(quote(address))}">{escape(title)}</a>'


def folded(title: str, *content: str) -> str:
    """Shut until it is asked for."""
    return "\n".join([f"<details><summary>{escape(title)}</summary>", *content, "</details>"])


def preformatted(content: str) -> str:
    return f"<pre>{escape(content)}</pre>"
