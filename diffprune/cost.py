"""`python -m diffprune.cost model=… pruner.ratio=…`: sizes of any model and ratio, without weights."""

import json
import sys
from contextlib import nullcontext
from dataclasses import replace

from tabulate import tabulate

from diffprune.config.compose import composed
from diffprune.config.validation import check_pruner, check_values
from diffprune.runtime.command_line import one_sentence
from diffprune.runtime.errors import UserError


def sizes(overrides: list[str]) -> dict[str, int]:
    """Parameters and MACs, dense and pruned, of the model and pruner that `overrides` choose; no weight is needed or read.
    Which channels are removed changes only the sizes of gated feed-forwards, so that they are drawn at random. Raises
    UserError where the network's shape does not decide the widths."""
    cfg = composed(overrides)
    check_values(cfg)
    check_pruner(cfg.pruner)
    if cfg.pruner.scope != "local":
        raise UserError(f"pruner.scope={cfg.pruner.scope} decides widths by scores: "
                        "run python -m diffprune … until=prune")
    if cfg.pruner.target.latency is not None:
        raise UserError("pruner.target.latency is measured on the model itself: run python -m diffprune … until=prune")
    # These imports take seconds: a mistake is reported before them.
    import torch

    from diffprune.models.cost import true_macs
    from diffprune.pruning.criteria import Random
    from diffprune.pruning.surgery import cut
    from diffprune.pruning.target import distinct_ratios, search, size_kept
    from diffprune.stages import options
    model, allocation, target = options.dense_model(cfg), options.allocation(cfg), options.pruning_target(cfg)
    # The denoiser needs no storage; one that only its checkpoint describes is read from there.
    described = "_target_" in model.architecture["unet"]
    with torch.device("meta") if described else nullcontext():
        dense_model = model.blank() if described else model.load()
    unet = dense_model.unet
    dense_model.family.check(unet, cfg.model.name)
    if target is not None:      # the ratio that keeps this fraction of the quantity
        fraction_kept = size_kept(target[0], unet, Random(), allocation, {}, cfg.seed)
        allocation = replace(allocation, ratio=search(*target, fraction_kept, distinct_ratios(unet, allocation)).ratio)
    dense = true_macs(unet)
    report = cut(unet, Random(), allocation, seed=cfg.seed)
    return {"params": report.params, "macs": report.macs, "params_dense": report.params_dense,
            "macs_dense": report.macs_dense, "true_macs": true_macs(unet), "true_macs_dense": dense}


def table(numbers: dict[str, int]) -> str:
    """A table with a line for the dense and one for the pruned model, and percentages of the dense model."""
    def line(name: str, suffix: str) -> list[str]:
        cells = [(numbers[key + suffix], numbers[f"{key}_dense"]) for key in ("params", "macs", "true_macs")]
        return [name, *(f"{value:,} ({100 * value / dense:.1f} %)" for value, dense in cells)]

    header = ["", "parameters", "MACs (as the paper counts)", "MACs (attention products too, no norms or biases)"]
    return tabulate([line("dense", "_dense"), line("pruned", "")], header, "simple", disable_numparse=True,
                    colalign=("left", "right", "right", "right"))


def main() -> None:
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
