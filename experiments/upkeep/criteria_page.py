"""`python -m experiments.upkeep.criteria_page`: what the criteria that share a name have in common, on the digits model.

Prunes the shipped model with every family and selection from the same batch and noise; writes the table of
`docs/criteria.md`.
"""

import copy
from pathlib import Path

import torch
from tabulate import tabulate

from diffprune.data.digits import load
from diffprune.diffusion.randomness import Stream, generator
from diffprune.models.dense import SHIPPED
from diffprune.models.model_folder import load_model
from diffprune.pruning import criteria
from diffprune.pruning.importance import walk
from diffprune.pruning.prune_report import PruneReport
from diffprune.pruning.selection import SELECTIONS
from diffprune.pruning.surgery import cut
from experiments.upkeep.blocks import replaced

PAGE = Path(__file__).parents[2] / "docs" / "criteria.md"
FAMILIES = {"the paper's experiments": criteria.DiffPruning, "the authors' diffusers script": criteria.DiffusersScript,
            "Torch-Pruning 1.6.1": criteria.TorchPruningTaylor}
RATIO, THRESHOLD, BATCH, SEED = 0.3, 0.05, 128, 0


def reports() -> dict[tuple[str, str], PruneReport]:
    """{(family, selection): what pruning came to}"""
    model, x_0 = load_model(SHIPPED / "ddpm_digits"), load(None, flip=False).calibration(BATCH, SEED)
    eps = torch.randn(x_0.shape, generator=generator(SEED, Stream.CALIBRATION))
    found = {}
    for family, criterion in FAMILIES.items():
        terms = walk(model, x_0, eps, [THRESHOLD], criterion.mean_loss, criterion.inclusive).terms[THRESHOLD]
        for name, selection in SELECTIONS.items():
            found[family, name] = cut(copy.deepcopy(model.unet), criterion(), RATIO, terms, SEED, selection())
    return found


def removed(report: PruneReport) -> set[tuple[str, int]]:
    return {(group["root"], channel) for group in report.groups for channel in group["removed"]}


def table() -> str:
    found = reports()
    default = removed(found["the paper's experiments", "paper"])
    rows = [[family, selection, f"{report.params:,}", f"{report.macs:,}", len(removed(report)),
             f"{100 * len(removed(report) & default) / len(default):.0f} %"]
            for (family, selection), report in found.items()]
    return tabulate(rows, ["criterion of", "selection", "parameters", "MACs", "channels removed",
                           "of the default's removed channels, removed too"], "github", disable_numparse=True)


def main() -> None:
    made = table()
    PAGE.write_text(replaced(PAGE.read_text(), "families", made))
    print(made)


if __name__ == "__main__":
    main()
