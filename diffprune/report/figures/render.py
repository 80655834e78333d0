"""Figures as files and for pages, rendered by vl-convert from their Vega-Lite specification."""

import hashlib
import io
import json
import re
from dataclasses import dataclass
from functools import cache
from html import escape
from typing import Any

import vl_convert
from PIL import Image

from diffprune.report.figures.chart import Figure
from diffprune.report.figures.palette import themed
from diffprune.report.figures.vega_lite import specification
from diffprune.report.tables.table import printable

SCALE = 2       # pixels of the PNG for each of the specification
LONGEST = 120   # letters of a file's name; file systems take 255 bytes, and endings follow


@dataclass(frozen=True)
class Drawing:
    """One figure: `svg` and `png` are files in the light theme's colours; `inline` (SVG) and `interactive` (Vega-Lite as
    JSON) have the colours of the page that they lie in."""
    svg: str
    png: bytes
    inline: str
    interactive: str


def draw(figure: Figure) -> Drawing:
    """Renders a figure; equal figures give equal bytes."""
    interactive, still = (shown(specification(figure, still)) for still in (False, True))
    if "layer" in still:
        still["layer"] = [layer for layer in still["layer"] if not layer.get("name", "").startswith("hover")]
    inline = svg = vl_convert.vegalite_to_svg(still)
    # A page lists the names itself that the files hold as a title.
    if "title" in still:
        del still["title"], interactive["title"]
        inline = vl_convert.vegalite_to_svg(still)
    # Without the transparency and the loose compression that triple the size of the PNG.
    png = io.BytesIO()
    Image.open(io.BytesIO(vl_convert.svg_to_png(svg, scale=SCALE))).convert("RGB").save(png, "png")
    named = themed(inline).replace("<svg", f'<svg role="img" aria-label="{escape(figure.alt)}"', 1)
    # "<!--" and "</" would change how a page reads the script that the JSON lies in.
    return Drawing(svg, png.getvalue(), named, themed(json.dumps(interactive, allow_nan=False)).replace("<", "\\u003c"))


def shown(value: Any) -> Any:
    """A specification, or an entry of one, whose texts can be drawn; the renderer ends the process at others."""
    if isinstance(value, dict):
        return {name: shown(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [shown(entry) for entry in value]
    return printable(value) if isinstance(value, str) else value


@cache
def scripts() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script, which needs nothing else and sets `vegaEmbed`."""
    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def file_name(name: str) -> str:
    """`name` without the characters that a file's name or an element's id should not have, at most LONGEST letters. A name
    that is cut, or that has unusual characters, ends in a hash of it."""
    clean = re.sub(r"[^A-Za-z0-9_.-]+", "-", name)
    if len(clean) <= LONGEST and re.fullmatch(r"[\w .,=-]*", name, re.ASCII):
        return clean
    fingerprint = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{clean[:LONGEST - 9]}-{fingerprint}"
