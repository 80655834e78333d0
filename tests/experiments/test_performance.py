"""The README's performance table is what was measured and kept."""

from experiments.upkeep import performance


def test_the_readme_and_the_page_are_those_of_the_kept_measurements() -> None:
    assert performance.measurements()
    assert performance.rendered(performance.README.read_text()) == performance.README.read_text()
    assert performance.page() == performance.PAGE.read_text()


def test_the_table_shows_each_case_by_our_fastest_way_and_the_pruned_model_beside_the_dense_one() -> None:
    def line(case: str, way: str, ratio: float, note: str = "") -> dict:
        return {"case": case, "way": way, "seconds": 1.0, "times_as_fast": ratio, "peak_mb": 1.0, "note": note}

    known = {"lines": [line("step", "plain", 1), line("step", "ours", 2, "5 images/s"), line("step", "slower", 1.5),
                       line("features", "plain", 1), line("features", "from memory", 0.7),
                       {"case": "beside a step", "way": "log", "seconds": 1.0, "note": "0.1 % of a step"},
                       {"case": "beside a step", "way": "together", "seconds": 1.0, "note": "0.6 % of a step"},
                       line("one evaluation, batch 8", "dense, eager", 1.0),
                       line("one evaluation, batch 8", "pruned, eager", 1.4, "1.50 times as fast as dense; MACs ratio 1.79"),
                       line("one evaluation, batch 1", "pruned, eager", 1.4, "1.20 times; MACs ratio 1.79")]}
    assert performance.headlines(known) == [["step", "ours", "2.00", "5 images/s"], ["features", "from memory", "0.70", ""],
                                            ["beside a step", "together", "", "0.6 % of a step"],
                                            ["one evaluation, batch 8", "pruned beside dense", "1.50", "MACs ratio 1.79"]]
