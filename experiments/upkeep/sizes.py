"""`python -m experiments.upkeep.sizes`: parameters and MACs of the paper's five settings, beside the published ones.

No weight is needed: the models are built and pruned without storage. Writes `experiments/results/sizes.md`.
"""

from tabulate import tabulate

from diffprune.cost import sizes
from experiments.reporting.against_published import published
from experiments.upkeep import RESULTS

RESULT = RESULTS / "sizes.md"

SETTINGS = {"cifar10": "ddpm_cifar10", "celeba": "ddpm_celeba", "lsun_church": "ddpm_lsun_church",
            "lsun_bedroom": "ddpm_lsun_bedroom", "imagenet": "ldm_imagenet"}
RATIOS = (0.05, 0.1, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.7, 0.8)     # those of CIFAR-10 whose sizes are known


def settings() -> str:
    """Dense and pruned at nominal ratio .3, one line per setting and model."""
    rows = []
    for name, model in SETTINGS.items():
        ours = sizes([f"model={model}", "pruner.ratio=.3"])
        for method, suffix in (("dense", "_dense"), ("diff_pruning", "")):
            theirs = published().find("rows", name, {"method": method})
            rows.append([name, method, f"{ours[f'params{suffix}'] / 1e6:.3f}", optional(theirs.get("params")),
                         f"{ours[f'macs{suffix}'] / 1e9:.2f}", optional(theirs.get("macs")),
                         f"{ours[f'true_macs{suffix}'] / 1e9:.2f}"])
    return tabulate(rows, ["setting", "model", "parameters [M]", "published", "MACs [G]", "published",
                           "MACs, attention products too [G]"], "github", disable_numparse=True)


def ratios() -> str:
    """The CIFAR-10 model at other nominal ratios."""
    rows = []
    for ratio in RATIOS:
        ours = sizes(["model=ddpm_cifar10", f"pruner.ratio={ratio}"])
        rows.append([f"{ratio:g}", f"{ours['params'] / 1e6:.3f}", f"{100 * ours['params'] / ours['params_dense']:.1f} %",
                     f"{ours['macs'] / 1e9:.2f}", f"{100 * ours['macs'] / ours['macs_dense']:.1f} %"])
    return tabulate(rows, ["nominal ratio", "parameters [M]", "of dense", "MACs [G]", "of dense"], "github",
                    disable_numparse=True)


def optional(number: float | None) -> str:
    return "–" if number is None else f"{number:g}"


def main() -> None:
    text = ("# Sizes\n\nMade by `python -m experiments.upkeep.sizes`.\n\n"
            f"## The paper's settings, nominal ratio .3\n\n{settings()}\n\n"
            f"## CIFAR-10 at other nominal ratios\n\n{ratios()}\n")
    RESULT.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
