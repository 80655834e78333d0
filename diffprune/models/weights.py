"""The weights in a network's folder, under the names that diffusers and its users give them."""

import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from diffprune.models.formats.keys import as_state, check_finite, some_of
from diffprune.models.formats.read import read_checkpoint
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, rename, temporary_sibling

log = logging.getLogger(__name__)

WEIGHTS = "diffusion_pytorch_model.safetensors"
# The same as one torch file (older hub repositories), in shards, or as a variant such as fp16, which may be in shards too.
NAMES = re.compile(r"diffusion_pytorch_model(?:\.(?P<variant>\w+))?(?:-\d+-of-(?P<shards>\d+))?(?:\.(?P<variant_last>\w+))?"
                   r"\.(?P<suffix>safetensors|bin)")

# Attention as diffusers named it before 0.15, which the hub's DDPMs still have.
OLD_NAME = re.compile(r"(attentions\.\d+)\.(query|key|value|proj_attn)\.")
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Writes a safetensors file by rename, with its checksum; OSError for a full disk.

    The library writes to a temporary name of its own beside the file that it is given. That is in a hidden folder here, so
    that what a killed process leaves is removed by the next, like every other partial file.
    """
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    with atomic_file(path, checksum=True) as partial, temporary_sibling(path) as folder:
        folder.mkdir()
        save_file(contiguous, folder / path.name, metadata)
        rename(folder / path.name, partial, checksum=False)
        folder.rmdir()


def weight_files(names: Iterable[str]) -> dict[str, list[str]]:
    """{variant: its file, or all of its shards} among the file `names` of a network's folder, "" where no variant is named.

    Safetensors go before torch files, and one file before shards. Shards of which some are missing do not count.
    """
    sets: dict[tuple[str, bool, str, str], list[str]] = {}
    for match in filter(None, map(NAMES.fullmatch, sorted(names))):
        shards, variant = match["shards"] or "", match["variant"] or match["variant_last"] or ""
        sets.setdefault((match["suffix"], not shards, shards, variant), []).append(match[0])
    return {variant: files for (_, _, shards, variant), files in sorted(sets.items()) if len(files) == int(shards or 1)}


def chosen_files(folder: Path) -> list[Path]:
    """The files that hold the weights of a network's folder; UserError where there are none, or only several variants."""
    names = sorted(file.name for file in folder.iterdir() if file.is_file())
    variants = weight_files(names)
    if not variants:
        raise UserError(f"{folder / WEIGHTS} is missing, and there are no other complete weights in diffusers' layout; the "
                        f"folder holds {some_of(names)}: copy the weights there")
    if "" not in variants:
        if len(variants) > 1:
            raise UserError(f"{folder} holds several variants of the weights ({', '.join(variants)}) and no {WEIGHTS}: "
                            "give this name to the one that is meant")
        log.info("%s holds no %s: reading the variant %s", folder, WEIGHTS, *variants)
    return [folder / name for name in variants.get("") or next(iter(variants.values()))]


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All weights of a network's folder under their current names; UserError where they cannot be read or are not finite."""
    tensors: dict[str, Tensor] = {}
    for file in chosen_files(folder):
        content = read_checkpoint(file)
        try:
            tensors |= (state := as_state(content))
            check_finite(state)
        except UserError as error:
            raise UserError(f"{file}: {error}") from error
    return {OLD_NAME.sub(lambda match: f"{match[1]}.{OLD_ATTENTION[match[2]]}.", name): tensor
            for name, tensor in tensors.items()}
