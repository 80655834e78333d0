"""Files of training states: written atomically, and checked when they are read."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffprune.runtime.checksums import check
from diffprune.runtime.errors import Damaged
from diffprune.runtime.files import atomic_file

log = logging.getLogger(__name__)


def write_state(path: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Writes `tensors` (on the CPU) and `numbers` (JSON), with a checksum, atomically; OSError for a full disk."""
    with atomic_file(path, checksum=True) as partial:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, partial, {"about": json.dumps(numbers)})


def read_state(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and numbers that `write_state` was given; raises Damaged, and OSError where the disk gives nothing."""
    try:
        path.open("rb").close()     # safetensors says of every refusal that the file is missing
        check(path)
        with safe_open(path, "pt") as file:
            # Copies: the file's own tensors are not aligned in memory, and CPU kernels round differently on them.
            return {key: file.get_tensor(key).clone() for key in file.keys()}, json.loads(file.metadata()["about"])  # noqa: SIM118
    except (SafetensorError, FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is not readable ({error})") from error


def newest_state(paths: Sequence[Path]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The content of the last of `paths` that is not damaged, None where all are; a warning names each damaged one."""
    for path in reversed(paths):
        try:
            return read_state(path)
        except Damaged as error:
            log.warning("%s: going back to the state before it", error)
    return None
