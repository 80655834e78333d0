"""Images of many models side by side: row by row the same noise, column by column a model, the dense one first."""

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.textpath import TextPath
from PIL import Image

from diffprune.report.figures.drawn import file_name
from diffprune.report.figures.svg import SVG_METADATA
from diffprune.report.finished import Finished
from diffprune.report.pages.page import name
from diffprune.report.tables.comparison import differences, grouped, protocol_of

ROWS, COLUMNS = 8, 24   # noises and models in one grid
SMALL = 64              # pixels; larger images are stored as JPEG, smaller ones as they are
QUALITY = 92
SAMPLER = ("sampler", "spacing", "steps", "eta", "clip", "seed", "guidance", "precision")
NONE = "none"           # of a part of the sampler that a run does not state
INCHES = 0.75           # of one image in a picture
FONT, LETTERS, SLOPE = 8, 32, 45    # of the names above it: points, in one line, degrees


@dataclass(frozen=True)
class Column:
    """A model's images of noise 0, 1, …"""
    title: str
    images: list[Image.Image]


@dataclass(frozen=True)
class Samples:
    """Columns of models that drew from the same noises with the same sampler; `left_out` models found no room."""
    title: str
    columns: list[Column]
    left_out: int


def sample_grids(named: list[tuple[str, list[Finished]]]) -> list[Samples]:
    """One grid for each (model, data set, sampler), from each configuration's first seed that has a grid."""
    shown = [(title, run) for title, runs in named
             if (run := next((run for run in runs if run.run.grid.exists()), None)) is not None]
    groups = grouped(shown, lambda item: start(item[1]))
    telling = differences([start(group[0][1]) for group in groups])
    return [made for group in groups if (made := samples(group, list(telling))) is not None]


def start(run: Finished) -> dict[str, Any]:
    """What must agree for image i of two runs to have begun alike."""
    protocol = protocol_of(run)
    return {"model": run.options["model"]["name"], "dataset": run.options["dataset"]["name"],
            **{name: protocol.get(name, NONE) for name in SAMPLER}}


def samples(group: list[tuple[str, Finished]], telling: Sequence[str] = ()) -> Samples | None:
    """The grid of one group, entitled with what is `telling` it from the others; None where no picture can be read."""
    columns, dense = [], None
    for title, run in group[:COLUMNS]:
        cut = cut_out(run)
        dense = dense or cut.get("dense")
        if run.final in cut and not run.is_dense:
            columns.append(Column(title, cut[run.final]))
    if dense:
        columns.insert(0, Column("dense", dense))
    about = start(group[0][1])
    own = [f"{name}={about[name]}" for name in telling if name in SAMPLER]
    title = ", ".join([f"{about['model']} on {about['dataset']}", *own])
    return Samples(title, columns, max(0, len(group) - COLUMNS)) if columns else None


def cut_out(run: Finished) -> dict[str, list[Image.Image]]:
    """{model: its first images} of the run's sample grid; empty where the grid is not as the sampling stage draws it."""
    titles = rows_of(run)
    try:
        with Image.open(run.run.grid) as picture:
            pitch, rest = divmod(picture.height - 1, len(titles))   # an image and a gap; one more gap at the end
            if rest or pitch < 2 or (picture.width - 1) % pitch:
                return {}
            count = min(ROWS, (picture.width - 1) // pitch)
            return {title: [picture.crop((j * pitch + 1, i * pitch + 1, (j + 1) * pitch, (i + 1) * pitch))
                            for j in range(count)] for i, title in enumerate(titles)}
    except OSError:     # cut off in a copy
        return {}


def rows_of(run: Finished) -> list[str]:
    """What the grid's rows show, from the top, as the sampling stage draws them."""
    before = [run.before] if run.is_trained and run.options["evaluate"]["before_healing"] else []
    return [*(["dense"] if run.has_dense else []), run.final, *before]


def own_samples(run: Finished) -> Samples | None:
    """The models of one run in the order in which they come about; None where there is no grid that can be read."""
    cut = cut_out(run) if run.run.grid.exists() else {}
    columns = [Column(title, cut[title]) for title in dict.fromkeys(("dense", run.before, run.final)) if title in cut]
    return Samples(f"{run.options['model']['name']} on {run.options['dataset']['name']}", columns, 0) if columns else None


def table(grid: Samples) -> str:
    """The grid as a table whose images open larger."""
    head = "".join(f'<th scope="col">{name(column.title)}</th>' for column in grid.columns)
    body = "\n".join(f'<tr><th scope="row">{i}</th>{"".join(cells(grid, i))}</tr>'
                     for i in range(max(len(column.images) for column in grid.columns)))
    return (f'<div class="scroll" tabindex="0"><table class="samples"><thead><tr><td></td>{head}</tr></thead>'
            f"<tbody>\n{body}\n</tbody></table></div>")


def cells(grid: Samples, i: int) -> Iterator[str]:
    for column in grid.columns:
        if i >= len(column.images):
            yield "<td></td>"
            continue
        image = column.images[i]
        sharp = ' class="pixels"' if image.width <= SMALL else ""
        alt = escape(f"{column.title}, noise {i}")
        yield (f'<td><button type="button" class="enlarge" aria-label="Enlarge noise {i}"><img{sharp} alt="{alt}" '
               f'width="{image.width}" height="{image.height}" src="{address(image)}"></button></td>')


def address(image: Image.Image) -> str:
    """The image as a data URL."""
    kind, options = ("png", {"optimize": True}) if image.width <= SMALL else ("jpeg", {"quality": QUALITY})
    out = io.BytesIO()
    (image if kind == "png" else image.convert("RGB")).save(out, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(out.getvalue()).decode()}"


def pictures(grid: Samples) -> dict[str, bytes | str]:
    """{file: content} of the grid as one picture, PNG and SVG, with the models' names above the columns."""
    stem, drawing = file(grid), figure(grid)
    out: dict[str, bytes | str] = {}
    pixels, vectors = io.BytesIO(), io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "diffprune"}):
        drawing.savefig(pixels, format="png", dpi=120, facecolor="white", metadata={"Software": None})
        drawing.savefig(vectors, format="svg", transparent=True, metadata=SVG_METADATA)
    out[f"{stem}.png"], out[f"{stem}.svg"] = pixels.getvalue(), vectors.getvalue()
    return out


def file(grid: Samples) -> str:
    """What the picture of the grid is called, without its suffix."""
    return file_name(f"samples-{grid.title.replace(' on ', '-')}")


def figure(grid: Samples) -> Figure:
    """All images in one axes, a narrow gap between them."""
    rows, first = max(len(column.images) for column in grid.columns), grid.columns[0].images[0]
    gap = max(1, first.width // 16)
    pitch = first.width + gap
    picture = np.full((rows * pitch - gap, len(grid.columns) * pitch - gap, 3), 255, np.uint8)
    for j, column in enumerate(grid.columns):
        for i, image in enumerate(column.images):
            picture[i * pitch:i * pitch + image.height, j * pitch:j * pitch + image.width] = np.asarray(image.convert("RGB"))
    names = [fill(column.title, LETTERS) for column in grid.columns]
    left, above = 0.45, room(names)
    high, wide = (pixels * INCHES / pitch for pixels in picture.shape[:2])
    width, height = left + wide + above, high + above + 0.1
    out = Figure((width, height))
    axes = out.add_axes((left / width, 0.1 / height, wide / width, high / height))
    axes.imshow(picture, interpolation="nearest", aspect="auto")
    axes.set_xticks([j * pitch + first.width / 2 for j in range(len(names))], names, rotation=SLOPE, ha="left",
                    rotation_mode="anchor", fontsize=FONT, linespacing=1.0)
    axes.set_yticks([i * pitch + first.width / 2 for i in range(rows)], map(str, range(rows)), fontsize=FONT)
    axes.tick_params(length=0, top=False, labeltop=True, bottom=False, labelbottom=False)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_ylabel("noise")
    return out


def room(names: Sequence[str]) -> float:
    """Inches that the longest of these names takes up, to the right as above, on its slope."""
    longest = max(TextPath((0, 0), line, size=FONT).get_extents().width for name in names for line in name.splitlines())
    tallest = 1.4 * FONT * max(name.count("\n") + 1 for name in names)
    return (longest + tallest) / 72 * math.sin(math.radians(SLOPE)) + 0.15
