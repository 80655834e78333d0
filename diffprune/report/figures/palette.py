"""The colours of pages and figures, in light and in dark, by what they are for."""

from collections.abc import Mapping

# The series are near Okabe and Ito's colours, moved apart until with the dense model's grey any two differ to everybody,
# and each is dark (light) enough for a line on its paper; tests/report/test_palette.py holds the bounds. No two of LIGHT are
# equal: a page's figures are themed by replacing each by its variable.
SERIES = 7
LIGHT = {"paper": "#ffffff", "panel": "#f5f6f8", "ink": "#1c1f24", "quiet": "#5a6270", "grid": "#dde0e5", "link": "#005f96",
         "dense": "#7b7b7b", "c0": "#377ccc", "c1": "#d55e00", "c2": "#19734b", "c3": "#863c6c", "c4": "#5b4400",
         "c5": "#5499ca", "c6": "#1d296a"}
DARK = {"paper": "#14171c", "panel": "#1e2229", "ink": "#e8eaee", "quiet": "#a2aab8", "grid": "#363c47", "link": "#7cc4f0",
        "dense": "#a3a3a3", "c0": "#56b5ea", "c1": "#fc8739", "c2": "#17ad73", "c3": "#ba82b5", "c4": "#f0e442",
        "c5": "#f2cd6c", "c6": "#bdccb1"}


def variables(theme: Mapping[str, str]) -> str:
    """The theme as CSS custom properties."""
    return " ".join(f"--{name}: {colour};" for name, colour in theme.items())


def themed(text: str) -> str:
    """`text` with each colour of the light theme replaced by its CSS variable, which a page defines for both themes."""
    for name, colour in LIGHT.items():
        text = text.replace(colour, f"var(--{name})")
    return text
