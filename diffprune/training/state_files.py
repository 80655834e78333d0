"""Files of training states: written atomically, and checked when they are read."""

import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffprune.runtime.errors import Damaged
from diffprune.runtime.files import atomic_file

log = logging.getLogger(__name__)


def write_state(path: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Writes `tensors` (on the CPU) and `numbers` (JSON), with a SHA-256 of both, atomically; OSError for a full disk."""
    tensors, text = {name: tensor.contiguous() for name, tensor in tensors.items()}, json.dumps(numbers)
    with atomic_file(path) as partial:
        save_file(tensors, partial, metadata={"about": text, "sha256": digest(tensors, text)})


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and numbers that `write_state` was given; raises Damaged."""
    try:
        with safe_open(path, "pt") as file:
            # Copies: the file's own tensors are not aligned in memory, and CPU kernels round differently on them.
            tensors, metadata = {key: file.get_tensor(key).clone() for key in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise Damaged(f"{path} is not readable ({error})") from error
    if metadata.get("sha256") != digest(tensors, metadata.get("about", "")):
        raise Damaged(f"{path} differs from its checksum")
    return tensors, json.loads(metadata["about"])


def newest_state(paths: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The content of the last of `paths` that is not damaged, None where all are; a warning names each damaged one."""
    for path in reversed(paths):
        try:
            return read_state(path)
        except Damaged as error:
            log.warning("%s: going back to the state before it", error)
    return None


def digest(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256, in hex, of `text` and of every tensor's name, type, shape and bytes."""
    sha256 = hashlib.sha256(text.encode())
    for name, tensor in sorted(tensors.items()):
        sha256.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        sha256.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return sha256.hexdigest()
