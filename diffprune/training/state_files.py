"""Files of training states: written atomically, and checked when they are read."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffprune.models.weights import write_tensors
from diffprune.runtime.checksums import check
from diffprune.runtime.errors import Damaged

log = logging.getLogger(__name__)


def write_state(path: Path, tensors: dict[str, Tensor], numbers: dict[str, Any]) -> None:
    """Writes `tensors` (on the CPU) and `numbers` (JSON), with a checksum, atomically; OSError for a full disk."""
    write_tensors(path, tensors, {"about": json.dumps(numbers)})


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
