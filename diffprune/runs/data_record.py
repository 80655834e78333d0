"""The records of what a run was started with: its images, those of them that were left out, and its dense model."""

from dataclasses import asdict, dataclass

from diffprune.runs.run import Run
from diffprune.runtime.checksums import check
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, read_record, write_json


@dataclass(frozen=True)
class DataRecord:
    """The content of data.json: `key` identifies the images, `images` counts them, `path` is where they were read from."""
    key: str
    images: int
    path: str | None

    def keep(self, run: Run) -> None:
        """Writes data.json at the run's first use of data; raises UserError where the run was started with other images."""
        kept = read_record(DataRecord, run.data) if run.data.exists() else None
        if kept is not None and kept.key != self.key:
            raise UserError(f"{run.whole} was started with other data ({kept.images} images, dataset.path={kept.path}) "
                            f"than dataset.path={self.path} holds ({self.images} images): give those, or delete the folder")
        if kept != self:
            write_json(run.data, asdict(self), checksum=True)


@dataclass(frozen=True)
class ModelRecord:
    """The content of model.json: `key` identifies the dense model, `checkpoint` is where it was read from."""
    key: str
    checkpoint: str | None

    def keep(self, run: Run) -> None:
        """Writes model.json at the run's first use of the dense model; UserError where it was started with another."""
        if not run.model.exists():
            write_json(run.model, asdict(self), checksum=True)
        elif read_record(ModelRecord, run.model).key != self.key:
            raise UserError(f"{run.whole} was started with another dense model than model.checkpoint={self.checkpoint} "
                            "holds now: put that one back, or delete the folder")


def data_moved(run: Run, path: str | None) -> bool:
    """Whether the run was started with data from another place than `path`."""
    return run.data.exists() and read_record(DataRecord, run.data).path != path


def note_skipped(run: Run, skipped: dict[str, str]) -> None:
    """Adds images that were left out, {name: reason}, to the sorted lines of skipped.txt; writes no file without any."""
    check(run.skipped)
    listed = set(run.skipped.read_text().splitlines()) if run.skipped.exists() else set()
    lines = listed | {f"{name} {reason}" for name, reason in skipped.items()}
    if lines != listed:
        with atomic_file(run.skipped, checksum=True) as partial:
            partial.write_text("".join(f"{line}\n" for line in sorted(lines)))
