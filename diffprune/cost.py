"""What one network evaluation costs."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Cost:
    """Parameters, and multiply-accumulates of one evaluation on one image, as the paper counts them."""
    params: int
    macs: int


def example_inputs(unet: nn.Module) -> dict[str, Tensor]:
    """Arguments of one evaluation on one image, in the order of the UNet's signature, on its device."""
    device, config = next(unet.parameters()).device, unet.config
    inputs = {"sample": torch.zeros(1, config.in_channels, config.sample_size, config.sample_size, device=device),
              "timestep": torch.ones(1, dtype=torch.long, device=device)}
    if "cross_attention_dim" in config:
        inputs["encoder_hidden_states"] = torch.zeros(1, 1, config.cross_attention_dim, device=device)
    return inputs


def measure(unet: nn.Module) -> Cost:
    """Counts as Torch-Pruning does: convolutions, linear layers, norms and biases; no products inside attention."""
    import torch_pruning as tp
    macs, params = tp.utils.count_ops_and_params(unet, tuple(example_inputs(unet).values()))
    return Cost(int(params), int(macs))
