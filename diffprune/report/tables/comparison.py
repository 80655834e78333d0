"""Many finished runs side by side: one row per configuration, over its seeds, the dense model first."""

from statistics import fmean
from typing import Any

from diffprune.report.finished import Finished
from diffprune.report.tables.configurations import configurations, flat, grouped, titles
from diffprune.report.tables.protocol import UNTRAINED, parts_of, protocol_differences, sentence
from diffprune.report.tables.published import Published
from diffprune.report.tables.quantities import REPORT
from diffprune.report.tables.rows import Numbers, Row, compared, dense
from diffprune.report.tables.table import Table, listed
from diffprune.runtime.errors import UserError


def compare(runs: list[Finished], mixed_protocols: bool = False, level: int = REPORT,
            published: Published | None = None) -> Table:
    """The comparison of `runs`; with `mixed_protocols`, what differs in the protocols becomes columns.

    `level` MAIN leaves out what is measured beside Fréchet distance, SSIM, sizes and speed. `published` numbers stand
    beside those they belong to.

    Raises UserError for the same run twice and, without `mixed_protocols`, for runs under different protocols.
    """
    check_distinct(runs)
    differing = protocol_differences(runs)
    if differing and not mixed_protocols:
        raise UserError(f"these runs were made under different protocols ({sentence(differing)}), so their numbers do "
                        "not compare: name fewer runs, or add --mixed-protocols to see them with what differs")
    rows = [*dense_rows(runs, list(differing), published), *configuration_rows(runs, list(differing), published)]
    return listed(rows, [name for name in differing if name != "features"], level)


def check_distinct(runs: list[Finished]) -> None:
    """Refuses two folders that hold the same experiment with the same seed, which must not count twice."""
    for twins in grouped(runs, lambda run: run.options):
        if len(twins) > 1:
            raise UserError(f"{twins[0].run.folder} and {twins[1].run.folder} hold the same run: name one of them")


def dense_rows(runs: list[Finished], differing: list[str], published: Published | None = None) -> list[Row]:
    """The unpruned, untrained model of each (data set, model, protocol), from every run that measured it.

    Runs of one seed repeat a measurement, which counts once, as their mean. All of them drew the same images with the model,
    so equal distances are one measurement, not several seeds.
    """
    def model(run: Finished) -> dict[str, Any]:
        return {key: flat(run.options)[key] for key in ("dataset.name", "model.name", "model.checkpoint")}

    def protocol(run: Finished) -> dict[str, Any]:
        return {name: None if name in UNTRAINED else value for name, value in parts_of(run, differing).items()}

    groups = grouped([run for run in runs if run.knows_dense], lambda run: (model(run), protocol(run)))
    names = titles([model(group[0]) for group in groups])
    return [Row.of(" ".join(["dense", *name]), once_each(per_seed(group)), protocol(group[0]),
                   published.dense(group[0]) if published else None)
            for name, group in zip(names, groups, strict=True)]


def per_seed(runs: list[Finished]) -> list[Numbers]:
    """The dense model as the runs of each seed measured it: the mean of a quantity's distinct values."""
    found = []
    for same in grouped(runs, lambda run: run.options["seed"]):
        measured = [dense(run) for run in same]
        values = {name: {value for one in measured if (value := one.get(name)) is not None}
                  for name in dict.fromkeys(name for one in measured for name in one)}
        found.append({name: fmean(distinct) if distinct else None for name, distinct in values.items()})
    return found


def once_each(measured: list[Numbers]) -> list[Numbers]:
    """The same measurements, each distinct value of a quantity kept only where it first appears."""
    seen: set[tuple[str, float | None]] = set()
    kept: list[Numbers] = []
    for numbers in measured:
        kept.append({name: value for name, value in numbers.items() if (name, value) not in seen})
        seen.update(numbers.items())
    return kept


def configuration_rows(runs: list[Finished], differing: list[str], published: Published | None = None) -> list[Row]:
    """One row per configuration."""
    return [Row.of(title, [compared(run) for run in group], parts_of(group[0], differing),
                   published.of(group[0]) if published else None)
            for title, group in configurations(runs, differing)]
