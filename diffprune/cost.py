"""`python -m diffprune.cost model=… pruner.ratio=…`: sizes of any model and ratio, without weights."""

import json
import sys
from typing import TYPE_CHECKING

import torch
from torch import nn

from diffprune.models.cost import true_macs

if TYPE_CHECKING:
    from omegaconf import DictConfig


def skeleton(cfg: "DictConfig") -> nn.Module:
    """The network of `model=` without weights; one that only its checkpoint describes is read from there."""
    from hydra.utils import instantiate

    from diffprune.models.dense import load_dense
    if "_target_" not in cfg.model.unet:
        return load_dense(cfg).unet
    with torch.device("meta"):
        return instantiate(cfg.model.unet, _convert_="all")


def sizes(overrides: list[str]) -> dict[str, int]:
    """Params and MACs, dense and pruned, of the model and pruner that `overrides` choose; no weight is needed or read.

    Which channels go changes the sizes of gated feed-forwards alone, so they are drawn at random, on tensors without
    storage.
    """
    from diffprune.config.compose import composed
    from diffprune.config.validation import check_pruner, check_values
    cfg = composed(overrides)
    check_values(cfg)
    check_pruner(cfg.pruner)
    from diffprune.pruning.criteria import Random  # seconds of imports: a mistake is told before them
    from diffprune.pruning.surgery import asked, cut
    unet = skeleton(cfg)
    dense = true_macs(unet)
    report = cut(unet, Random(), nominal_ratio(cfg, unet), **asked(cfg))
    return {"params": report.params, "macs": report.macs, "params_dense": report.params_dense,
            "macs_dense": report.macs_dense, "true_macs": true_macs(unet), "true_macs_dense": dense}


def nominal_ratio(cfg: "DictConfig", unet: nn.Module) -> float:
    """The ratio that is asked for, or that a target finds; UserError where it takes more than the network's shape."""
    from diffprune.pruning.criteria import Random
    from diffprune.pruning.surgery import asked
    from diffprune.pruning.target import distinct_ratios, find, size_share
    from diffprune.runtime.errors import UserError
    if cfg.pruner.scope != "local":
        raise UserError(f"pruner.scope={cfg.pruner.scope} decides widths by scores: run python -m diffprune … until=prune")
    if cfg.pruner.target.latency is not None:
        raise UserError("pruner.target.latency is measured on the model itself: run python -m diffprune … until=prune")
    for quantity in ("macs", "params"):
        if (share := cfg.pruner.target[quantity]) is not None:
            ratios = distinct_ratios(unet, asked(cfg)["selection"])
            return find(quantity, share, size_share(quantity, unet, Random(), {}, asked(cfg)), ratios).ratio
    return cfg.pruner.ratio


def table(numbers: dict[str, int]) -> str:
    """Two lines, dense and pruned, with what is left in percent."""
    from tabulate import tabulate

    def line(name: str, suffix: str) -> list[str]:
        cells = [(numbers[key + suffix], numbers[f"{key}_dense"]) for key in ("params", "macs", "true_macs")]
        return [name, *(f"{value:,} ({100 * value / dense:.1f} %)" for value, dense in cells)]

    header = ["", "parameters", "MACs (as the paper counts)", "MACs (attention products too, no norms or biases)"]
    return tabulate([line("dense", "_dense"), line("pruned", "")], header, "simple", disable_numparse=True,
                    colalign=("left", "right", "right", "right"))


def main() -> None:
    from diffprune.runtime.command_line import one_sentence
    if {"-h", "--help"} & set(sys.argv[1:]):
        print("usage: python -m diffprune.cost [GROUP=CHOICE] [OPTION=VALUE] … [format=table|json]\n\n" + __doc__)
        return
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("format=")]
    asked = [argument.removeprefix("format=") for argument in sys.argv[1:] if argument.startswith("format=")]
    with one_sentence():
        show = {"table": table, "json": json.dumps}.get(asked[-1] if asked else "table")
        if show is None:
            from diffprune.runtime.errors import UserError
            raise UserError(f"format={asked[-1]} is not known: choose table or json")
        print(show(sizes(overrides)))


if __name__ == "__main__":
    main()
