"""What a run's folder says of its data: which they are, and which images were left out."""

from pathlib import Path

from omegaconf import DictConfig

from diffprune.data.loading.held import HeldImages
from diffprune.data.loading.images import ImageSet
from diffprune.data.sources.table import TableSource
from diffprune.runs.cache import Cache
from diffprune.runs.run import Run
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, read_json, write_json


def recall_key(images: ImageSet, cfg: DictConfig) -> None:
    """Spares decoding images for their key alone: it is kept in the cache while their files stay untouched."""
    if not isinstance(images, HeldImages) or not images.by_pixels or not isinstance(images.readable.source, TableSource):
        return
    told = [(file.resolve(), file.stat()) for file in images.readable.source.files]
    files = [(str(file), about.st_size, about.st_mtime_ns) for file, about in told]
    with Cache(Path(cfg.paths.cache)).entry("keys", {"files": files, "skip": images.readable.skip}, ".json") as path:
        if not path.exists():
            write_json(path, images.key)
        images.key = read_json(path)


def check_same(images: ImageSet, cfg: DictConfig, run: Run) -> None:
    """Writes `data.json` at a run's first use of data; raises UserError where it is to go on with others."""
    now = {"key": images.key, "images": len(images), "path": cfg.dataset.path}
    before = read_json(run.data) if run.data.exists() else now
    if before["key"] != now["key"]:
        raise UserError(f"{run.whole} was begun with other data ({before['images']} images, dataset.path={before['path']}) "
                        f"than dataset.path={now['path']} holds ({now['images']} images): give those, or delete the folder")
    if before != now or not run.data.exists():
        write_json(run.data, now)


def list_skipped(skipped: dict[str, str], run: Run) -> None:
    """Adds images that were left out {name: reason} to `skipped.txt`, a line each, sorted; no file where there are none."""
    before = set(run.skipped.read_text().splitlines()) if run.skipped.exists() else set()
    lines = before | {f"{name} {reason}" for name, reason in skipped.items()}
    if lines != before:
        with atomic_file(run.skipped) as partial:
            partial.write_text("".join(f"{line}\n" for line in sorted(lines)))
