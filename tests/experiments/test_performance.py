"""The page of speeds is what was measured and kept."""

from experiments.upkeep import performance


def test_the_page_is_that_of_the_kept_measurements() -> None:
    assert performance.measurements()
    assert performance.page() == performance.PAGE.read_text()
