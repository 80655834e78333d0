"""Names beside the points: where they fit, and where a legend stays."""

from dataclasses import replace

import pytest

from diffprune.report.figures.chart import Chart, Series
from diffprune.report.figures.direct_labels import direct_labels
from diffprune.report.figures.vega_lite import specification

APART = Chart("n", "t", "c", "a", "x", "y", [Series("low", [0, 1, 2], [1.0, 2.0, 1.0], line=True),
                                             Series("high", [0, 1, 2], [9.0, 8.0, 7.0], line=True)])


def legends(chart: Chart) -> list[object]:
    return [layer["encoding"]["shape"]["legend"] for layer in specification(chart)["layer"] if "shape" in layer["encoding"]]


def test_names_that_fit_stand_beside_the_last_points_and_replace_the_legend() -> None:
    labels = direct_labels(APART, 300, 200)
    assert [(label.name, label.x, label.y) for label in labels] == [("low", 2, 1.0), ("high", 2, 7.0)]
    assert legends(APART) == [None]
    assert specification(APART)["width"] < specification(replace(APART, series=APART.series[:1]))["width"]


@pytest.mark.parametrize("other", [
    Series("near the first", [0, 1, 2], [1.0, 5.0, 1.2], line=True),     # one name would lie on the other
    Series("x" * 40, [0, 1, 2], [9.0, 8.0, 7.0], line=True),             # too long
    Series("a point in the way", [0, 2.1], [9.0, 1.0])])
def test_where_names_do_not_fit_there_is_a_legend(other: Series) -> None:
    chart = replace(APART, series=[APART.series[0], other])
    assert direct_labels(chart, 300, 200) == []
    assert legends(chart) != [None]


def test_a_name_stands_beyond_its_error_bar() -> None:
    wide = replace(APART.series[0], x_error=[0, 0, 0.5])
    (label, _) = direct_labels(replace(APART, series=[wide, APART.series[1]]), 300, 200)
    assert label.x == 2.5


def test_one_series_needs_no_name() -> None:
    assert direct_labels(replace(APART, series=APART.series[:1]), 300, 200) == []
