"""Many finished runs side by side: one row per configuration, over its seeds, the dense model first."""

from statistics import fmean
from typing import Any

from diffprune.report.finished import Finished
from diffprune.report.tables.configurations import configurations, flat, grouped, titles
from diffprune.report.tables.protocol import UNTRAINED, entries_of, protocol_differences, sentence
from diffprune.report.tables.published import Published
from diffprune.report.tables.quantities import REPORT
from diffprune.report.tables.rows import Numbers, Row, compared, dense
from diffprune.report.tables.table import Table, listed
from diffprune.runtime.errors import UserError


def compare(runs: list[Finished], mixed_protocols: bool = False, level: int = REPORT,
            published: Published | None = None) -> Table:
    """The comparison of `runs`; with `mixed_protocols`, what differs in the protocols becomes columns. `level` MAIN leaves
    out everything but Fréchet distance, SSIM, sizes and speed. `published` numbers get columns of their own. Raises
    UserError for the same run twice and, without `mixed_protocols`, for runs under different protocols."""
    # The same experiment with the same seed must not count twice.
    for twins in grouped(runs, lambda run: run.options):
        if len(twins) > 1:
            raise UserError(f"{twins[0].run.folder} and {twins[1].run.folder} hold the same run: name one of them")
    differing = protocol_differences(runs)
    if differing and not mixed_protocols:
        raise UserError(f"these runs were made under different protocols ({sentence(differing)}), so their numbers do "
                        "not compare: name fewer runs, or add --mixed-protocols to see them with what differs")
    rows = [*dense_rows(runs, list(differing), published), *(
        Row.of(title, [compared(run) for run in group], entries_of(group[0], list(differing)),
               published.of(group[0]) if published else None) for title, group in configurations(runs, list(differing)))]
    return listed(rows, [name for name in differing if name != "features"], level)


def dense_rows(runs: list[Finished], differing: list[str], published: Published | None = None) -> list[Row]:
    """A row for the unpruned, untrained model of each (data set, model, protocol), from every run that measured it. Runs of
    one seed repeat a measurement, which counts once, as their mean; equal distances of several seeds are one measurement,
    since all of them drew the same images with the model."""
    def model(run: Finished) -> dict[str, Any]:
        return {key: flat(run.options)[key] for key in ("dataset.name", "model.name", "model.checkpoint")}

    def protocol(run: Finished) -> dict[str, Any]:
        return {name: None if name in UNTRAINED else value for name, value in entries_of(run, differing).items()}

    groups = grouped([run for run in runs if run.knows_dense], lambda run: (model(run), protocol(run)))
    return [Row.of(" ".join(["dense", *name]), distinct(group), protocol(group[0]), published.dense(group[0]) if published
                   else None) for name, group in zip(titles([model(group[0]) for group in groups]), groups, strict=True)]


def distinct(runs: list[Finished]) -> list[Numbers]:
    """The dense model as the runs of each seed measured it: the mean of a quantity's distinct values. A value that an
    earlier seed has too is left out."""
    kept: list[Numbers] = []
    seen: set[tuple[str, float | None]] = set()
    for same in grouped(runs, lambda run: run.options["seed"]):
        values: dict[str, set[float]] = {}
        for name, value in (item for run in same for item in dense(run).items()):
            values.setdefault(name, set()).update([] if value is None else [value])
        means = {name: fmean(several) if several else None for name, several in values.items()}
        kept.append({name: value for name, value in means.items() if (name, value) not in seen})
        seen.update(means.items())
    return kept
