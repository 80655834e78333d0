"""`python -m experiments.upkeep.criteria_page`: how far the criteria that share a name agree, on the digits model.

Prunes the shipped model with every family and selection from the same batch and noise; writes the table of
`docs/criteria.md`.
"""

import copy

from tabulate import tabulate

from diffprune.data.digits import load
from diffprune.models.model_folder import ASSETS, load_model
from diffprune.pruning import criteria
from diffprune.pruning.allocation import Allocation
from diffprune.pruning.gradients import CalibrationBatch
from diffprune.pruning.importance import score
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.selection import SELECTIONS
from diffprune.pruning.surgery import cut
from diffprune.pruning.timesteps import Threshold
from experiments.upkeep import ROOT, replaced

PAGE = ROOT / "docs" / "criteria.md"
FAMILIES: dict[str, criteria.Criterion] = {
    "the paper's experiments": criteria.DiffPruning(), "the authors' diffusers script": criteria.DiffusersScript(),
    "Torch-Pruning 1.6.1": criteria.TorchPruningTaylor()}
RATIO, THRESHOLD, BATCH, SEED = 0.3, 0.05, 128, 0


def reports() -> dict[tuple[str, str], PruneReport]:
    """{(family, selection): the report on pruning with them}."""
    model, images = load_model(ASSETS / "ddpm_digits"), load(None, flip=False).calibration(BATCH, SEED)
    batch, made = CalibrationBatch.with_noise(images, SEED), {}
    for family, criterion in FAMILIES.items():
        terms = score(model, criterion, batch, Threshold(THRESHOLD, criterion.inclusive)).terms
        for name, selection in SELECTIONS.items():
            made[family, name] = cut(copy.deepcopy(model.unet), criterion, Allocation(RATIO, selection()), terms, SEED)
    return made


def removed(report: PruneReport) -> set[tuple[str, int]]:
    return {(group["root"], channel) for group in report.groups for channel in group["removed"]}


def main() -> None:
    made = reports()
    default = removed(made["the paper's experiments", "paper"])
    rows = [[family, selection, f"{report.params:,}", f"{report.macs:,}", len(removed(report)),
             f"{100 * len(removed(report) & default) / len(default):.0f} %"]
            for (family, selection), report in made.items()]
    text = tabulate(rows, ["criterion of", "selection", "parameters", "MACs", "channels removed",
                           "of the default's removed channels, removed too"], "github", disable_numparse=True)
    PAGE.write_text(replaced(PAGE.read_text(), "families", text))
    print(text)


if __name__ == "__main__":
    main()
