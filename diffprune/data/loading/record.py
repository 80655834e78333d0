"""The key of images that are decoded only to be identified, kept while their files stay untouched."""

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
    with cache.entry("keys", {"files": files, "skip": images.readable.skip}, ".json") as path:
        if not path.exists():
            write_json(path, images.key)
        images.key = read_json(path)
