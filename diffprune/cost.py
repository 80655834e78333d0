"""`python -m diffprune.cost model=… pruner.ratio=…`: sizes of any model and ratio, without weights."""

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from diffprune.models.dense import DenseModel
    from diffprune.pruning.allocation import Allocation


def sizes(overrides: list[str]) -> dict[str, int]:
    """Parameters and MACs, dense and pruned, of the model and pruner that `overrides` choose; no weight is needed or read.

    Which channels are removed changes only the sizes of gated feed-forwards, so that they are drawn at random.
    """
    from diffprune.config.compose import composed
    from diffprune.config.validation import check_pruner, check_values
    cfg = composed(overrides)
    check_values(cfg)
    check_pruner(cfg.pruner)
    # These imports take seconds: a mistake is reported before them.
    from diffprune.models.cost import true_macs
    from diffprune.pruning.criteria import Random
    from diffprune.pruning.surgery import cut
    from diffprune.stages import options
    unet = skeleton(options.dense_model(cfg))
    dense, allocation = true_macs(unet), options.allocation(cfg)
    report = cut(unet, Random(), with_target(allocation, options.pruning_target(cfg), unet, cfg.seed), seed=cfg.seed)
    return {"params": report.params, "macs": report.macs, "params_dense": report.params_dense,
            "macs_dense": report.macs_dense, "true_macs": true_macs(unet), "true_macs_dense": dense}


def skeleton(model: "DenseModel") -> "nn.Module":
    """The model's denoiser on the meta device; one that only its checkpoint describes is read from there."""
    import torch
    if "_target_" not in model.architecture["unet"]:
        return model.load().unet
    with torch.device("meta"):
        return model.blank().unet


def with_target(allocation: "Allocation", target: tuple[str, float] | None, unet: "nn.Module", seed: int) -> "Allocation":
    """The allocation, with the ratio that reaches the target (quantity, fraction kept) if there is one.

    Raises UserError where the network's shape does not decide the widths.
    """
    from diffprune.pruning.criteria import Random
    from diffprune.pruning.target import distinct_ratios, search, size_kept
    from diffprune.runtime.errors import UserError
    if allocation.scope != "local":
        raise UserError(f"pruner.scope={allocation.scope} decides widths by scores: run python -m diffprune … until=prune")
    if target is None:
        return allocation
    if target[0] == "latency":
        raise UserError("pruner.target.latency is measured on the model itself: run python -m diffprune … until=prune")
    fraction_kept = size_kept(target[0], unet, Random(), allocation, {}, seed)
    return replace(allocation, ratio=search(*target, fraction_kept, distinct_ratios(unet, allocation)).ratio)


def table(numbers: dict[str, int]) -> str:
    """A table with a line for the dense and one for the pruned model, and percentages of the dense model."""
    from tabulate import tabulate

    def line(name: str, suffix: str) -> list[str]:
        cells = [(numbers[key + suffix], numbers[f"{key}_dense"]) for key in ("params", "macs", "true_macs")]
        return [name, *(f"{value:,} ({100 * value / dense:.1f} %)" for value, dense in cells)]

    header = ["", "parameters", "MACs (as the paper counts)", "MACs (attention products too, no norms or biases)"]
    return tabulate([line("dense", "_dense"), line("pruned", "")], header, "simple", disable_numparse=True,
                    colalign=("left", "right", "right", "right"))


def main() -> None:
    from diffprune.runtime.command_line import one_sentence
    from diffprune.runtime.errors import UserError
    if {"-h", "--help"} & set(sys.argv[1:]):
        print("usage: python -m diffprune.cost [GROUP=CHOICE] [OPTION=VALUE] … [format=table|json]\n\n" + (__doc__ or ""))
        return
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("format=")]
    formats = [argument.removeprefix("format=") for argument in sys.argv[1:] if argument.startswith("format=")]
    with one_sentence():
        show = {"table": table, "json": json.dumps}.get(formats[-1] if formats else "table")
        if show is None:
            raise UserError(f"format={formats[-1]} is not known: choose table or json")
        print(show(sizes(overrides)))


if __name__ == "__main__":
    main()
