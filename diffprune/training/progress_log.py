"""How a training went, line by line."""

import json
import time
from pathlib import Path

from diffprune.runtime.files import atomic_file
from diffprune.tracking.tracker import Tracker


class Journal:
    """`progress.jsonl`: one line per logged step, continued after a restart without repeating or losing one.

    The tracker, which has one curve for all rounds, counts on from the `before` steps of earlier ones.
    """

    def __init__(self, path: Path, step: int, tracker: Tracker, before: int = 0) -> None:
        self.path, self.tracker, self.steps_before = path, tracker, before
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        self.before = json.loads(kept[-1])["seconds"] if kept else 0.0
        with atomic_file(path) as partial:
            partial.write_text("".join(f"{line}\n" for line in kept))

    def __enter__(self) -> "Journal":
        self.file, self.start = self.path.open("a", buffering=1), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, step: int, loss: float, lr: float) -> None:
        """`loss` summed over pixels, mean over the batch; `seconds` of training so far, restarts included."""
        seconds = round(self.before + time.monotonic() - self.start, 3)
        self.file.write(json.dumps({"step": step, "loss": loss, "lr": lr, "seconds": seconds}) + "\n")
        self.tracker.log({"loss": loss, "lr": lr, "seconds": seconds}, self.steps_before + step)
