"""The network of the paper's models in plain PyTorch: `python -m diffprune.bench --against tests/bench/ddim_denoiser.py`.

Layers, their order and their names are those of the DDIM code base, whose weights it takes: x * sigmoid(x), attention by two
matrix products over 1 x 1 convolutions, each level's blocks in a ModuleList.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

DROPOUT = 0.1   # of CIFAR-10's recipe


def swish(x: Tensor) -> Tensor:
    return x * torch.sigmoid(x)


def norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class Block(nn.Module):
    """Two convolutions with the timestep's embedding between them, added to the input."""

    def __init__(self, channels: int, out: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = norm(channels), nn.Conv2d(channels, out, 3, padding=1)
        self.temb_proj, self.norm2, self.dropout = nn.Linear(embedding, out), norm(out), nn.Dropout(DROPOUT)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, temb: Tensor) -> Tensor:
        h = self.conv1(swish(self.norm1(x))) + self.temb_proj(swish(temb))[:, :, None, None]
        return self.nin_shortcut(x) + self.conv2(self.dropout(swish(self.norm2(h))))


class Attention(nn.Module):
    """Of one head over all positions, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = norm(channels)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(channels, channels, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (project(h).flatten(2) for project in (self.q, self.k, self.v))
        weights = F.softmax(torch.bmm(q.transpose(1, 2), k) * x.shape[1] ** -0.5, dim=2)
        return x + self.proj_out(torch.bmm(v, weights.transpose(1, 2)).view_as(x))


class Sampling(nn.Module):
    """Half or twice the side, by a convolution."""

    def __init__(self, channels: int, down: bool) -> None:
        super().__init__()
        self.down, self.conv = down, nn.Conv2d(channels, channels, 3, *((2, 0) if down else (1, 1)))

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.down else F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Denoiser(nn.Module):
    """`base` channels times `multipliers` at the levels, `blocks` at each, attention where the side is `attention`."""

    def __init__(self, base: int = 128, multipliers: tuple[int, ...] = (1, 2, 2, 2), blocks: int = 2, attention: int = 16,
                 side: int = 32, channels: int = 3) -> None:
        super().__init__()
        self.base, embedding = base, 4 * base
        self.temb = nn.ModuleDict({"dense": nn.ModuleList([nn.Linear(base, embedding), nn.Linear(embedding, embedding)])})
        self.conv_in = nn.Conv2d(channels, base, 3, padding=1)

        def level(widths: list[tuple[int, int]], at: int) -> nn.ModuleDict:
            attentions = [Attention(out) for _, out in widths] if at == attention else []
            return nn.ModuleDict({"block": nn.ModuleList([Block(*width, embedding) for width in widths]),
                                  "attn": nn.ModuleList(attentions)})

        skipped, width, sides = [base], base, [side >> i for i in range(len(multipliers))]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for multiplier, at in zip(multipliers, sides, strict=True):
            out = base * multiplier
            self.down.append(level([(width, out)] + [(out, out)] * (blocks - 1), at))
            skipped, width = [*skipped, *[out] * blocks], out
            if at != sides[-1]:
                self.down[-1]["downsample"] = Sampling(width, down=True)
                skipped.append(width)
        self.mid = nn.ModuleDict({"block_1": Block(width, width, embedding), "attn_1": Attention(width),
                                  "block_2": Block(width, width, embedding)})
        for multiplier, at in zip(reversed(multipliers), reversed(sides), strict=True):
            out, widths = base * multiplier, []
            for _ in range(blocks + 1):
                widths.append((width + skipped.pop(), out))
                width = out
            self.up.insert(0, level(widths, at))
            if at != side:
                self.up[0]["upsample"] = Sampling(width, down=False)
        self.norm_out, self.conv_out = norm(width), nn.Conv2d(width, channels, 3, padding=1)

    def forward(self, x_t: Tensor, t: Tensor) -> Tensor:
        half = self.base // 2
        angles = t[:, None] * torch.exp(torch.arange(half, device=t.device) * -(math.log(10000) / (half - 1)))
        first, second = self.temb["dense"]
        temb = second(swish(first(torch.cat([angles.sin(), angles.cos()], 1))))
        kept = [self.conv_in(x_t)]
        for level in self.down:
            for i, block in enumerate(level["block"]):
                h = block(kept[-1], temb)
                kept.append(level["attn"][i](h) if level["attn"] else h)
            if "downsample" in level:
                kept.append(level["downsample"](kept[-1]))
        h = self.mid["block_2"](self.mid["attn_1"](self.mid["block_1"](kept[-1], temb)), temb)
        for level in reversed(self.up):
            for i, block in enumerate(level["block"]):
                h = block(torch.cat([h, kept.pop()], 1), temb)
                h = level["attn"][i](h) if level["attn"] else h
            if "upsample" in level:
                h = level["upsample"](h)
        return self.conv_out(swish(self.norm_out(h)))


def denoiser() -> nn.Module:
    """CIFAR-10's network of 35.7 M parameters, with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Denoiser()
