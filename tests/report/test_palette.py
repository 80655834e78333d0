"""Colours that everybody can tell from each other and from the paper."""

import numpy as np
import pytest

from diffprune.report.figures.palette import DARK, LIGHT, SERIES

# What a severe deficiency makes of linear RGB: Machado, Oliveira, Fernandes, "A Physiologically-based Model for Simulation
# of Color Vision Deficiency", IEEE TVCG 15(6), 2009, table of severity 1.0.
EYES = {
    "normal": np.eye(3),
    "protan": np.array([[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]),
    "deutan": np.array([[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]),
}
XYZ = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]])
WHITE = np.array([0.95047, 1.0, 1.08883])       # D65
APART = 15.0        # CIE 1976 colour difference; about 2.3 is just noticed
CONTRAST = 3.0      # of what is drawn to its paper, WCAG 2.1, 1.4.11
THEMES = {name: ([theme["dense"], *(theme[f"c{i}"] for i in range(SERIES))], theme["paper"])
          for name, theme in (("light", LIGHT), ("dark", DARK))}


def linear(colour: str) -> np.ndarray:
    """Linear RGB [3] of a #rrggbb."""
    value = np.array([int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIELAB [3] of linear RGB."""
    t = XYZ @ rgb.clip(0, 1) / WHITE
    x, y, z = np.where(t > (6 / 29) ** 3, np.cbrt(t), t / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def test_lab_is_that_of_known_colours() -> None:
    assert lab(linear("#ffffff")) == pytest.approx([100, 0, 0], abs=0.01)
    assert lab(linear("#ff0000")) == pytest.approx([53.24, 80.09, 67.20], abs=0.02)


@pytest.mark.parametrize("theme", list(THEMES))
@pytest.mark.parametrize("eyes", list(EYES))
def test_no_two_series_look_alike_to_anybody(theme: str, eyes: str) -> None:
    colours, _ = THEMES[theme]
    seen = [lab(EYES[eyes] @ linear(colour)) for colour in colours]
    near = {(colours[i], colours[j]): np.linalg.norm(one - seen[j]) for i, one in enumerate(seen) for j in range(i)}
    assert min(near.values()) > APART, min(near, key=near.get)


@pytest.mark.parametrize("theme", list(THEMES))
def test_every_colour_stands_out_from_its_paper(theme: str) -> None:
    colours, paper = THEMES[theme]
    for colour in colours:
        low, high = sorted((XYZ[1] @ linear(colour), XYZ[1] @ linear(paper)))
        assert (high + 0.05) / (low + 0.05) > CONTRAST, colour


def test_a_colour_of_a_figure_tells_which_variable_of_the_page_it_is() -> None:
    assert len(set(LIGHT.values())) == len(LIGHT)
    assert LIGHT.keys() == DARK.keys()
