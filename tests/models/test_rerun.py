"""Evaluations that are begun again and again: nothing is computed twice, and nothing is computed otherwise."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from diffprune.models.rerun import Rerun
from tests.conftest import tiny_unet


class Block(nn.Module):
    """Two layers with a change in place between them; it hands on what it has in the middle, too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, *, twice: bool = False) -> dict[str, Tensor | str]:
        middle = self.first(x)
        middle += x
        if twice:
            middle = self.first(middle)
        return {"out": self.second(middle), "middle": middle, "kind": "block"}


class Network(nn.Module):
    """Blocks with a connection past the second one; one layer is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.last = nn.ModuleList([Block(), Block()]), nn.Linear(4, 2)
        self.unused = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        one = self.blocks[0](x)
        two = self.blocks[1](one["out"], twice=True)
        two["out"] *= 2
        return self.last(two["out"] + one["middle"])


ORDER = ("blocks.0.first", "blocks.0.second", "blocks.1.first", "blocks.1.second", "last")


@pytest.fixture
def network() -> Network:
    torch.manual_seed(0)
    return Network()


@torch.no_grad()
def test_every_call_gives_what_a_plain_evaluation_gives(network: Network, tmp_path: Path) -> None:
    x, plain = torch.randn(3, 4), {}
    hooks = [network.get_submodule(name).register_forward_hook(
        lambda _, given, y, name=name: plain.update({name: (given[0].clone(), y.clone())} | plain)) for name in ORDER]
    network(x)
    for hook in hooks:
        hook.remove()
    rerun = Rerun(network, lambda: network(x), tmp_path / "kept")
    for name in ORDER:
        for _ in range(2):
            given, y = rerun.call(name)
            assert torch.allclose(given, plain[name][0], atol=1e-6)     # a file's memory is aligned otherwise
            assert torch.allclose(y, plain[name][1], atol=1e-6)
            assert torch.equal(rerun.output(name), y)


@torch.no_grad()
def test_each_layer_is_computed_once_and_a_block_replaces_what_lies_in_it(network: Network, tmp_path: Path) -> None:
    calls: Counter[str] = Counter()
    for name in ORDER:
        layer = network.get_submodule(name)
        usual = layer.forward
        layer.forward = lambda x, name=name, usual=usual: (calls.update([name]), usual(x))[1]
    own = {name: network.get_submodule(name).forward for name in ORDER}
    rerun = Rerun(network, lambda: network(torch.ones(1, 4)), tmp_path / "kept")
    for name in ORDER:
        rerun.call(name)
    # Only a layer's first call is kept: the other one is computed until its block, too, has ended.
    assert calls == {name: 3 if name == "blocks.1.first" else 1 for name in ORDER}
    assert set(rerun.kept) == {"blocks.0", "blocks.1", "last"}
    assert {path.stem for path in (tmp_path / "kept").iterdir()} == set(rerun.kept)
    assert all(network.get_submodule(name).forward is forward for name, forward in own.items())


@torch.no_grad()
def test_a_layer_whose_weights_change_is_computed_again(network: Network, tmp_path: Path) -> None:
    rerun = Rerun(network, lambda: network(torch.ones(1, 4)), tmp_path / "kept")
    _, before = rerun.call("blocks.0.first", keep=False)
    network.blocks[0].first.weight.zero_()
    _, after = rerun.call("blocks.0.first")
    assert not torch.equal(before, after)
    network.blocks[0].first.bias.zero_()
    rerun.forget("blocks.0.first")
    assert torch.equal(rerun.call("blocks.0.second")[0], torch.ones(1, 4))


@torch.no_grad()
def test_a_module_that_is_not_evaluated_and_an_error_of_the_network_are_raised(network: Network, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="does not evaluate unused"):
        Rerun(network, lambda: network(torch.ones(1, 4)), tmp_path / "one").call("unused")
    with pytest.raises(ZeroDivisionError):
        Rerun(network, lambda: 1 / 0, tmp_path / "other").call("last")
    assert not any(module._forward_hooks or "forward" in vars(module) for module in network.modules())


@torch.no_grad()
def test_what_is_called_by_keyword_and_what_hides_its_tensors_are_computed_too(tmp_path: Path) -> None:
    class Hiding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> SimpleNamespace:
            return SimpleNamespace(out=self.inner(input=x))

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.hiding, self.last = Hiding(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            hidden = self.hiding(x)
            hidden.out += 1
            return self.last(hidden.out)

    network, x = Outer(), torch.ones(1, 4)
    plain = network(x)
    rerun = Rerun(network, lambda: network(x), tmp_path / "kept")
    assert torch.equal(rerun.call("hiding.inner")[0], x)
    for _ in range(2):
        torch.testing.assert_close(rerun.call("last")[1], plain)
    assert set(rerun.kept) == {"hiding.inner", "last"}


@torch.no_grad()
def test_a_unet_s_skip_connections_are_handed_on(tmp_path: Path) -> None:
    unet, x, t = tiny_unet((8, 16)), torch.randn(2, 1, 8, 8), torch.tensor([3, 7])
    rerun = Rerun(unet, lambda: unet(x, t), tmp_path / "kept")
    _, y = rerun.call("conv_out")
    assert torch.allclose(y, unet(x, t).sample, atol=1e-6)
    assert {name for name in rerun.kept if name.startswith("down_blocks")} == {"down_blocks.0", "down_blocks.1"}
    _, again = rerun.call("conv_out")
    assert torch.allclose(again, y, atol=1e-6)
