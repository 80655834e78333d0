"""Images of many models side by side: every row is a model, the dense one first, every column starts from one noise."""

import io
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from diffprune.report.figures.render import file_name
from diffprune.report.finished import Finished
from diffprune.report.tables.configurations import Named, grouped
from diffprune.report.tables.protocol import differences, protocol_of
from diffprune.report.tables.table import printable
from diffprune.runs.samples import Samples as Drawn
from diffprune.runs.samples import read_images
from diffprune.runtime.checksums import check
from diffprune.runtime.errors import Damaged

NOISES, MODELS = 16, 24     # columns and rows of one grid
MORE, STEPS = 64, 6         # noises of a run's own page, on demand; previews of its training
SAMPLER = ("sampler", "spacing", "steps", "eta", "clip", "seed", "guidance", "precision")
NOT_STATED = "none"     # the value of a part of the sampler that a run does not state
WIDTH, GAP = 64, 6      # pixels of an image in a picture, and between two of them
FONT = 15               # pixels of the models' names
NAMES = 170             # pixels of their column


@dataclass(frozen=True)
class Row:
    """One model's images of noise 0, 1, …; `ssim` is the similarity of each to the dense model's, as far as it is known."""
    model: str
    images: Sequence[Image.Image]
    ssim: Sequence[float] = ()

    def part(self, first: int, end: int) -> "Row":
        """Its images of the noises from `first` to before `end`."""
        return Row(self.model, self.images[first:end], self.ssim[first:end])


@dataclass(frozen=True)
class Samples:
    """Images of models that drew from the same noises, of which `first` is the first, with the same sampler; `left_out`
    models found no room."""
    title: str
    rows: list[Row]
    left_out: int = 0
    first: int = 0

    noises = property(lambda self: max(len(row.images) for row in self.rows))       # their number
    file = property(lambda self: file_name(f"samples-{self.title.replace(' on ', '-')}") + ".png")

    def part(self, first: int, end: int) -> "Samples":
        """The grid of the noises from `first` to before `end`."""
        return Samples(self.title, [row.part(first, end) for row in self.rows], self.left_out, first)


def sample_grids(named: Named) -> list[Samples]:
    """One grid for each (model, data set, sampler), from each configuration's first seed that has a grid."""
    shown = [(title, run) for title, runs in named
             if (run := next((run for run in runs if run.run.grid.exists()), None)) is not None]
    groups = grouped(shown, lambda item: start(item[1]))
    differing = list(differences(start(group[0][1]) for group in groups))
    return [grid for group in groups if (grid := samples(group, differing)).rows]


def start(run: Finished) -> dict[str, Any]:
    """What must agree for image i of two runs to have begun alike."""
    return {"model": run.model, **{name: protocol_of(run).get(name, NOT_STATED) for name in SAMPLER}}


def samples(group: list[tuple[str, Finished]], differing: Sequence[str] = ()) -> Samples:
    """The grid of one group, its title with what tells it from the others (`differing`); without rows where no picture can
    be read."""
    rows: list[Row] = []
    dense: list[Row] = []
    for title, run in group[:MODELS]:
        models = {row.model: row for row in cut_out(run)}
        if not dense and "dense" in models:
            dense = [models["dense"]]
        if run.final in models and not run.is_dense:
            rows.append(Row(title, models[run.final].images, models[run.final].ssim))
    first = group[0][1]
    title = ", ".join([first.model, *(f"{name}={start(first)[name]}" for name in differing if name in SAMPLER)])
    return Samples(title, dense + rows, max(0, len(group) - MODELS)).part(0, NOISES)


def own_samples(run: Finished) -> Samples | None:
    """The models of one run, the final one beside the dense one; None where there are no images that can be read."""
    rows = all_drawn(run) or cut_out(run)
    return Samples(run.model, rows) if rows else None


def states(run: Finished) -> dict[str, str]:
    """{state: its model's name} of the models whose images the run has, in the order of its sample grid."""
    unhealed = run.is_trained and run.options["evaluate"]["before_healing"]
    return {**({"dense": "dense"} if run.has_dense else {}), "final": run.final,
            **({"before_healing": run.before_healing} if unhealed else {})}


def named_rows(run: Finished, images: Sequence[Sequence[Image.Image]]) -> list[Row]:
    """The images of each of the run's models under its name; a dense run's are there once."""
    rows = {name: Row(name, own, run.metrics.first_ssim.get(state, ()) if state != "dense" else ())
            for (state, name), own in zip(states(run).items(), images, strict=True)}
    return [*rows.values()]


def all_drawn(run: Finished) -> list[Row]:
    """The first images that the run's models drew, from its folder and the cache; nothing where one of them is gone."""
    with suppress(OSError, Damaged, KeyError):
        files = {"final": run.run.images} | {name: run.cache / file for name, file in Drawn.read(run.run).sets.items()}
        for file in files.values():
            check(file)
        return named_rows(run, [[as_image(image) for image in read_images(files[state])[:MORE]] for state in states(run)])
    return []


def as_image(pixels: np.ndarray) -> Image.Image:
    """uint8 [H, W, C] as an image."""
    return Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else np.asarray(pixels))


def cut_out(run: Finished) -> list[Row]:
    """The images of the run's sample grid; none where the grid is not as the sampling stage draws it."""
    return named_rows(run, images) if (images := cells(run.run.grid, len(states(run)))) else []


def previews(run: Finished) -> Samples | None:
    """The dense model's images, and what the model in training drew at a few steps; None without previews."""
    steps = {int(file.stem.rpartition("-")[2]): file for file in sorted(run.run.finetune.glob("preview-*.png"))}
    chosen = sorted({sorted(steps)[round(i * (len(steps) - 1) / (STEPS - 1))] for i in range(STEPS)}) if steps else []
    above = ["dense"] if run.has_dense else []
    found = [(step, images) for step in chosen if (images := cells(steps[step], len(above) + 1))]
    rows = [Row(name, images) for name, images in zip(above, found[0][1], strict=False)] if found else []
    return Samples("Previews", [*rows, *(Row(f"step {step}", images[-1]) for step, images in found)]) if found else None


def cells(file: Any, rows: int) -> list[list[Image.Image]]:
    """The images in `rows` rows of a picture with a gap of one pixel round each; empty where it is not such a picture."""
    try:
        with Image.open(file) as picture:
            pitch, rest = divmod(picture.height - 1, rows)      # an image and a gap; one more gap at the end
            if rest or pitch < 2 or (picture.width - 1) % pitch:
                return []
            return [[picture.crop((j * pitch + 1, i * pitch + 1, (j + 1) * pitch, (i + 1) * pitch))
                     for j in range(min(NOISES, (picture.width - 1) // pitch))] for i in range(rows)]
    except OSError:     # there is none, or it was cut off in a copy
        return []


def picture(grid: Samples) -> bytes:
    """The grid as one PNG image, with the models' names before the rows and the noises' numbers above the columns."""
    font, pitch, top = ImageFont.load_default(FONT), WIDTH + GAP, FONT + 2 * GAP
    first, line = grid.rows[0].images[0], FONT + 3
    height = first.height * WIDTH // first.width
    names = [wrapped(row.model, font) for row in grid.rows]
    heights = [max(height, line * len(name)) + GAP for name in names]
    out = Image.new("RGB", (NAMES + GAP + pitch * grid.noises, top + sum(heights)), "white")
    draw = ImageDraw.Draw(out)
    draw.text((GAP, GAP), "noise", "black", font)
    for j in range(grid.noises):
        draw.text((NAMES + j * pitch + WIDTH // 2, GAP), str(grid.first + j), "black", font, anchor="mt")
    for i, (row, name) in enumerate(zip(grid.rows, names, strict=True)):
        y = top + sum(heights[:i])
        for k, text in enumerate(name):
            draw.text((GAP, y + k * line), text, "black", font)
        for j, image in enumerate(row.images):
            enlarging = Image.Resampling.NEAREST if image.width < WIDTH else Image.Resampling.LANCZOS
            out.paste(image.convert("RGB").resize((WIDTH, height), enlarging), (NAMES + j * pitch, y))
    content = io.BytesIO()
    out.save(content, "png", optimize=True)
    return content.getvalue()


def wrapped(name: str, font: Any) -> list[str]:
    """The name in lines as wide as its column, broken after spaces, `.`, `_` and `=`, within a word where it must be."""
    lines = [""]
    for piece in re.findall(r"[^ ._=]*[ ._=]?", printable(name)):
        if font.getlength((lines[-1] + piece).rstrip()) > NAMES - 2 * GAP:
            lines.append("")
        for letter in piece:
            if font.getlength(lines[-1] + letter.rstrip()) > NAMES - 2 * GAP:
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines if line.strip()]
