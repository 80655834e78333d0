"""The sample grid of a run, cut into one strip per model."""

import base64
import io
from dataclasses import dataclass

from PIL import Image

from diffprune.report.finished import Finished

WIDEST = 2200   # pixels; larger images are shown with fewer columns


@dataclass(frozen=True)
class Strip:
    """`count` images of one model in a row, `width` x `height` pixels, as a PNG in base64."""
    title: str
    png: str
    width: int
    height: int
    count: int


def strips(run: Finished) -> list[Strip]:
    """One strip per model, in the order of the run's table; one for all where the grid is not as expected."""
    if not run.run.grid.exists():
        return []
    titles = rows_of(run)
    with Image.open(run.run.grid) as picture:
        pitch, rest = divmod(picture.height - 1, len(titles))   # an image and a gap; one more gap at the end
        if rest or (picture.width - 1) % pitch:
            return [strip(", ".join(titles), picture, 1)]
        count = min((picture.width - 1) // pitch, max(1, (WIDEST - 1) // pitch))
        cut = {title: strip(title, picture.crop((0, i * pitch, count * pitch + 1, (i + 1) * pitch + 1)), count)
               for i, title in enumerate(titles)}
    cut[run.final] = cut.pop(run.final)
    return list(cut.values())


def rows_of(run: Finished) -> list[str]:
    """What the grid's rows show, from the top, as the sampling stage draws them."""
    before = [run.before] if run.is_trained and run.options["evaluate"]["before_healing"] else []
    return [*(["dense"] if run.has_dense else []), run.final, *before]


def strip(title: str, picture: Image.Image, count: int) -> Strip:
    out = io.BytesIO()
    picture.save(out, format="PNG", optimize=True)
    return Strip(title, base64.b64encode(out.getvalue()).decode(), *picture.size, count)
