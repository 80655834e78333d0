"""Made data sets in the layouts that people have on their disks."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from diffprune.data.loading.images import ImageSet


def picture(value: int, size: tuple[int, int] = (12, 8)) -> Image.Image:
    """Noise of its own for every `value`, which its first pixel shows in red."""
    pixels = np.random.default_rng(value).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    pixels[0, 0] = (value, 0, 0)
    return Image.fromarray(pixels)


def png(value: int, size: tuple[int, int] = (12, 8)) -> bytes:
    buffer = io.BytesIO()
    picture(value, size).save(buffer, format="PNG")
    return buffer.getvalue()


def folder(root: Path, count: int = 12, size: tuple[int, int] = (12, 8), classes: int = 3) -> Path:
    """`count` images in `classes` sub-folders, made in an order that is not theirs."""
    for value in reversed(range(count)):
        file = root / f"class_{value * classes // count}" / f"{value:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(value, size))
    return root


def database(path: Path, count: int = 12, size: tuple[int, int] = (12, 8)) -> Path:
    """An LMDB folder of `count` images, keys as LSUN has them."""
    import lmdb
    path.parent.mkdir(parents=True, exist_ok=True)
    with lmdb.open(str(path), map_size=1 << 24) as environment, environment.begin(write=True) as transaction:
        for value in reversed(range(count)):
            transaction.put(f"{value:040x}".encode(), png(value, size))
    return path


def table(file: Path, count: int = 12, image: str = "image", label: str | None = "label", size: tuple[int, int] = (12, 8),
          first: int = 0, group: int = 5) -> Path:
    """A Parquet file as the hub has it: images as {bytes, path}, classes 0, 1, 2, 0, … beside them."""
    import pyarrow as pa
    from pyarrow import parquet
    values = range(first, first + count)
    content = {image: pa.array([{"bytes": png(value, size), "path": None} for value in values],
                               pa.struct([("bytes", pa.binary()), ("path", pa.string())]))}
    if label is not None:
        content[label] = pa.array([value % 3 for value in values], pa.int64())
    file.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table(content), file, row_group_size=group)
    return file


def archive(path: Path, source: Path) -> Path:
    """A zip archive of everything below `source`."""
    import zipfile
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for file in sorted(source.rglob("*"), reverse=True):
            packed.write(file, file.relative_to(source))
    return path


def celeba(root: Path, values: dict[str, int], size: tuple[int, int] = (178, 218)) -> Path:
    """Aligned photographs with a partition file beside their folder: `values` are names and partitions."""
    photographs = root / "img_align_celeba"
    photographs.mkdir(parents=True)
    for place, name in enumerate(values):
        picture(place, size).save(photographs / name, format="PNG")
    (root / "list_eval_partition.txt").write_text("".join(f"{name} {part}\n" for name, part in values.items()))
    return photographs


def batch(images: ImageSet, step: int, size: int, seed: int) -> Tensor:
    """The images of one training step, on their own."""
    return next(images.batches(step, step + 1, size, seed))[0]
