"""Images of many models side by side: every row starts from the same noise, every column is a model, the dense one first."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from diffprune.report.figures.render import file_name
from diffprune.report.finished import Finished
from diffprune.report.tables.configurations import Named, grouped
from diffprune.report.tables.protocol import differences, protocol_of
from diffprune.report.tables.table import printable

ROWS, COLUMNS = 8, 24   # noises and models in one grid
SAMPLER = ("sampler", "spacing", "steps", "eta", "clip", "seed", "guidance", "precision")
NOT_STATED = "none"     # the value of a part of the sampler that a run does not state
WIDTH, GAP = 120, 8     # pixels of an image in a picture, and between two of them
FONT = 15               # pixels of the names above the columns


@dataclass(frozen=True)
class Samples:
    """`columns` are (model, its images of noise 0, 1, …) of models that drew from the same noises with the same sampler;
    `left_out` models found no room."""
    title: str
    columns: list[tuple[str, list[Image.Image]]]
    left_out: int = 0

    rows = property(lambda self: max(len(images) for _, images in self.columns))        # the number of noises
    file = property(lambda self: file_name(f"samples-{self.title.replace(' on ', '-')}") + ".png")


def sample_grids(named: Named) -> list[Samples]:
    """One grid for each (model, data set, sampler), from each configuration's first seed that has a grid."""
    shown = [(title, run) for title, runs in named
             if (run := next((run for run in runs if run.run.grid.exists()), None)) is not None]
    groups = grouped(shown, lambda item: start(item[1]))
    differing = list(differences(start(group[0][1]) for group in groups))
    return [grid for group in groups if (grid := samples(group, differing)).columns]


def start(run: Finished) -> dict[str, Any]:
    """What must agree for image i of two runs to have begun alike."""
    return {"model": run.model, **{name: protocol_of(run).get(name, NOT_STATED) for name in SAMPLER}}


def samples(group: list[tuple[str, Finished]], differing: Sequence[str] = ()) -> Samples:
    """The grid of one group, its title with what tells it from the others (`differing`); without columns where no picture
    can be read."""
    columns, dense = [], []
    for title, run in group[:COLUMNS]:
        models = cut_out(run)
        if not dense and "dense" in models:
            dense = [("dense", models["dense"])]
        if run.final in models and not run.is_dense:
            columns.append((title, models[run.final]))
    first = group[0][1]
    title = ", ".join([first.model, *(f"{name}={start(first)[name]}" for name in differing if name in SAMPLER)])
    return Samples(title, dense + columns, max(0, len(group) - COLUMNS))


def cut_out(run: Finished) -> dict[str, list[Image.Image]]:
    """{model: its first images} of the run's sample grid; empty where the grid is not as the sampling stage draws it."""
    unhealed = [run.before_healing] if run.is_trained and run.options["evaluate"]["before_healing"] else []
    titles = [*(["dense"] if run.has_dense else []), run.final, *unhealed]
    try:
        with Image.open(run.run.grid) as picture:
            pitch, rest = divmod(picture.height - 1, len(titles))   # an image and a gap; one more gap at the end
            if rest or pitch < 2 or (picture.width - 1) % pitch:
                return {}
            count = min(ROWS, (picture.width - 1) // pitch)
            return {title: [picture.crop((j * pitch + 1, i * pitch + 1, (j + 1) * pitch, (i + 1) * pitch))
                            for j in range(count)] for i, title in enumerate(titles)}
    except OSError:     # there is none, or it was cut off in a copy
        return {}


def own_samples(run: Finished) -> Samples | None:
    """The models of one run in the order in which they come about; None where there is no grid that can be read."""
    models = cut_out(run)
    titles = dict.fromkeys(("dense", run.before_healing, run.final))
    return Samples(run.model, [(title, models[title]) for title in titles if title in models]) if models else None


def picture(grid: Samples) -> bytes:
    """The grid as one PNG image, with the models' names above the columns and the noises' numbers before the rows."""
    font = ImageFont.load_default(FONT)
    names = [wrapped(title, font) for title, _ in grid.columns]
    line, left, pitch = FONT + 3, 60, WIDTH + GAP
    top = line * max(map(len, names)) + 2 * GAP
    first = grid.columns[0][1][0]
    height = first.height * WIDTH // first.width
    out = Image.new("RGB", (left + pitch * len(names), top + (height + GAP) * grid.rows), "white")
    draw = ImageDraw.Draw(out)
    draw.text((left - GAP, top - GAP), "noise", "black", font, anchor="rs")
    for i in range(grid.rows):
        draw.text((left - GAP, top + i * (height + GAP) + height // 2), str(i), "black", font, anchor="rm")
    for j, ((_, images), name) in enumerate(zip(grid.columns, names, strict=True)):
        for i, text in enumerate(reversed(name)):
            draw.text((left + j * pitch, top - GAP - i * line), text, "black", font, anchor="ls")
        for i, image in enumerate(images):
            enlarging = Image.Resampling.NEAREST if image.width < WIDTH else Image.Resampling.LANCZOS
            out.paste(image.convert("RGB").resize((WIDTH, height), enlarging), (left + j * pitch, top + i * (height + GAP)))
    content = io.BytesIO()
    out.save(content, "png", optimize=True)
    return content.getvalue()


def wrapped(name: str, font: Any) -> list[str]:
    """The name in lines as wide as an image, broken after spaces, `.`, `_` and `=`, within a word where it must be."""
    lines = [""]
    for piece in re.findall(r"[^ ._=]*[ ._=]?", printable(name)):
        if font.getlength((lines[-1] + piece).rstrip()) > WIDTH:
            lines.append("")
        for letter in piece:
            if font.getlength(lines[-1] + letter.rstrip()) > WIDTH:
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines if line.strip()]
