"""Matplotlib figures as SVG that lies inside a page: no ids in common, colours that follow the page's."""

import re
from html import escape

from diffprune.report.pages.style import DENSE_LIGHT, PALETTE_LIGHT

# Drawn in the key, shown in the value: the page's style sheet defines each for light and for dark.
INK, GRID, DENSE = "#010101", "#020202", "#030303"
SERIES = tuple(f"#06060{i}" for i in range(1, 8))
COLOURS = {INK: "currentColor", GRID: "var(--grid)", DENSE: "var(--dense)"} | {
    code: f"var(--c{i})" for i, code in enumerate(SERIES)}
# What a file shows, which knows no page: the light page's colours.
LIGHT = {INK: "#1c1f24", GRID: "#dde0e5", DENSE: DENSE_LIGHT} | dict(
    zip(SERIES, PALETTE_LIGHT, strict=True))
SVG_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
INCHES = (4.8, 3.0)
LOOK = {
    "svg.fonttype": "none", "svg.hashsalt": "diffprune", "font.size": 9,
    "axes.spines.top": False, "axes.spines.right": False,
    "text.color": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.edgecolor": INK,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "legend.frameon": False,
    "legend.fontsize": 8, "lines.linewidth": 1.5, "xtick.labelsize": 8, "ytick.labelsize": 8, "axes.titlesize": 9,
}


def embedded(svg: str, name: str, description: str) -> str:
    """A standalone SVG file's element with ids, colours and size made to fit a page."""
    svg = svg[svg.index("<svg"):].strip()
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
    for drawn, shown in COLOURS.items():
        svg = svg.replace(drawn, shown)
    head, rest = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    return f'<svg role="img" aria-label="{escape(description)}" {box.group() if box else ""}>{rest}'
