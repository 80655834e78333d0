"""docs/models.md says which networks of diffusers are pruned; any other is refused by name."""

import pytest
from diffusers import UNet1DModel

import diffprune
from experiments.upkeep import support_page


def test_the_page_says_what_is_pruned_of_every_network() -> None:
    page = support_page.PAGE.read_text()
    assert page[page.index("<!-- support -->"):page.index("<!-- end -->")].split("\n", 1)[1].strip() == support_page.text()


def test_a_network_that_no_family_knows_is_refused_by_name() -> None:
    network = UNet1DModel(sample_size=16, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
                          down_block_types=("DownBlock1D", "DownBlock1D"), up_block_types=("UpBlock1D", "UpBlock1D"))
    with pytest.raises(ValueError, match="UNet1DModel belongs to no family of models that is known here"):
        diffprune.prune(network, ratio=0.5, criterion="magnitude")
