"""The key of images that are decoded only to be identified, kept while their files stay untouched."""

from importlib.metadata import version

from diffprune.data.loading.held import HeldImages
from diffprune.data.loading.images import ImageSet
from diffprune.data.sources.table import TableSource
from diffprune.runs.cache import Cache
from diffprune.runtime.files import read_json, write_json


def recall_key(images: ImageSet, cache: Cache) -> None:
    """Takes the key of images in Parquet from the cache, where it is filed under their files' names, sizes and times."""
    if not isinstance(images, HeldImages) or not images.by_pixels or not isinstance(images.readable.source, TableSource):
        return
    stats = [(file.resolve(), file.stat()) for file in images.readable.source.files]
    files = [(str(file), stat.st_size, stat.st_mtime_ns) for file, stat in stats]
    # What decides the key: the files, how their images are decoded, and which of them are left out.
    decoding = {"transform": str(images.readable.transform), "skip": images.readable.skip, "pillow": version("pillow")}
    with cache.entry("keys", {"files": files, **decoding}, ".json") as path:
        if not path.exists():
            write_json(path, images.key)
        images.key = read_json(path)
