"""How a training went, line by line."""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from diffprune.runtime.checksums import check, checksum_file, write_checksum
from diffprune.runtime.errors import Damaged
from diffprune.runtime.files import atomic_file

LONGEST_LINE = 1000     # bytes


class ProgressLog:
    """Writes `progress.jsonl`: a line {"step", "loss", "lr", "seconds"} for each logged step.

    Within `with`, lines are appended after those up to `step`, from which a restart goes on: no line is repeated or lost.
    `track` is given the numbers of each line and their step, counted on from the `previous_steps` of earlier rounds.
    """

    def __init__(self, path: Path, step: int = 0, track: Callable[[dict[str, float], int], None] | None = None,
                 previous_steps: int = 0) -> None:
        self.path, self.track, self.previous_steps = path, track, previous_steps
        lines = [line for line in self.read(path) if line["step"] <= step]
        self.previous_seconds = lines[-1]["seconds"] if lines else 0.0
        checksum_file(path).unlink(missing_ok=True)
        with atomic_file(path) as partial:
            partial.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    @staticmethod
    def read(path: Path) -> list[dict[str, float]]:
        """The logged steps, without a last line that is still being written; none where there is no file. Raises Damaged."""
        check(path)
        try:
            lines = path.read_text().splitlines() if path.exists() else []
            return [json.loads(line) for line in lines if line.endswith("}")]
        except ValueError as error:
            raise Damaged(f"{path} is damaged ({error}): delete it and repeat the command") from error

    @staticmethod
    def last(path: Path) -> dict[str, float] | None:
        """The last whole line, read without those before it; None where there is none."""
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LONGEST_LINE * 2))
                *_, line, _ = [b"", *file.read().split(b"\n")]
            return json.loads(line)
        except (OSError, ValueError):
            return None

    def __enter__(self) -> "ProgressLog":
        self.file, self.start = self.path.open("a", buffering=1), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        with suppress(OSError):     # for instance a full disk, which has ended the training already
            write_checksum(self.path)

    def write(self, step: int, loss: float, lr: float) -> None:
        """`loss`: summed over pixels, mean over the batch. Adds the `seconds` of training so far, restarts included."""
        seconds = round(self.previous_seconds + time.monotonic() - self.start, 3)
        numbers = {"loss": loss, "lr": lr, "seconds": seconds}
        self.file.write(json.dumps({"step": step} | numbers) + "\n")
        if self.track is not None:
            self.track(numbers, self.previous_steps + step)
