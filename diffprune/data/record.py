"""What a run's folder says of its data: which they are, and which images were left out."""

from omegaconf import DictConfig

from diffprune.data.images import ImageSet
from diffprune.errors import UserError
from diffprune.files import appearing, read_json, write_json
from diffprune.run import Run


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
        with appearing(run.skipped) as partial:
            partial.write_text("".join(f"{line}\n" for line in sorted(lines)))
