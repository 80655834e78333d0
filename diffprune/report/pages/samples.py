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

ROWS, COLUMNS = 8, 24   # noises and models in one grid
SAMPLER = ("sampler", "spacing", "steps", "eta", "clip", "seed", "guidance", "precision")
NOT_STATED = "none"     # the value of a part of the sampler that a run does not state
WIDTH, GAP = 120, 8     # pixels of an image in a picture, and between two of them
FONT = 15               # pixels of the names above the columns


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

    @property
    def rows(self) -> int:
        return max(len(column.images) for column in self.columns)


def sample_grids(named: Named) -> list[Samples]:
    """One grid for each (model, data set, sampler), from each configuration's first seed that has a grid."""
    shown = [(title, run) for title, runs in named
             if (run := next((run for run in runs if run.run.grid.exists()), None)) is not None]
    groups = grouped(shown, lambda item: start(item[1]))
    telling = list(differences(start(group[0][1]) for group in groups))
    return [made for group in groups if (made := samples(group, telling)) is not None]


def start(run: Finished) -> dict[str, Any]:
    """What must agree for image i of two runs to have begun alike."""
    return {"model": run.model, **{name: protocol_of(run).get(name, NOT_STATED) for name in SAMPLER}}


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
    run = group[0][1]
    title = ", ".join([run.model, *(f"{name}={start(run)[name]}" for name in telling if name in SAMPLER)])
    return Samples(title, columns, max(0, len(group) - COLUMNS)) if columns else None


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
    except OSError:     # cut off in a copy
        return {}


def own_samples(run: Finished) -> Samples | None:
    """The models of one run in the order in which they come about; None where there is no grid that can be read."""
    cut = cut_out(run) if run.run.grid.exists() else {}
    titles = dict.fromkeys(("dense", run.before_healing, run.final))
    columns = [Column(title, cut[title]) for title in titles if title in cut]
    return Samples(run.model, columns, 0) if columns else None


def file(grid: Samples) -> str:
    """The name of the picture of the grid."""
    return file_name(f"samples-{grid.title.replace(' on ', '-')}") + ".png"


def png(grid: Samples) -> bytes:
    out = io.BytesIO()
    picture(grid).save(out, "png", optimize=True)
    return out.getvalue()


def picture(grid: Samples) -> Image.Image:
    """The grid as one picture, with the models' names above the columns and the noises' numbers before the rows."""
    font = ImageFont.load_default(FONT)
    names = [wrapped(column.title, font) for column in grid.columns]
    line, left, pitch = FONT + 3, 60, WIDTH + GAP
    top = line * max(map(len, names)) + 2 * GAP
    height = grid.columns[0].images[0].height * WIDTH // grid.columns[0].images[0].width
    out = Image.new("RGB", (left + pitch * len(names), top + (height + GAP) * grid.rows), "white")
    draw = ImageDraw.Draw(out)
    draw.text((left - GAP, top - GAP), "noise", "black", font, anchor="rs")
    for i in range(grid.rows):
        draw.text((left - GAP, top + i * (height + GAP) + height // 2), str(i), "black", font, anchor="rm")
    for j, (column, name) in enumerate(zip(grid.columns, names, strict=True)):
        for i, text in enumerate(reversed(name)):
            draw.text((left + j * pitch, top - GAP - i * line), text, "black", font, anchor="ls")
        for i, image in enumerate(column.images):
            large = image.convert("RGB").resize((WIDTH, height), Image.Resampling.NEAREST if image.width < WIDTH else
                                                Image.Resampling.LANCZOS)
            out.paste(large, (left + j * pitch, top + i * (height + GAP)))
    return out


def wrapped(name: str, font: Any) -> list[str]:
    """The name in lines as wide as an image, broken after spaces, `.`, `_` and `=`, within a word where it must be."""
    lines = [""]
    for piece in re.findall(r"[^ ._=]*[ ._=]?", " ".join(name.split())):
        if font.getlength((lines[-1] + piece).rstrip()) > WIDTH:
            lines.append("")
        for letter in piece:
            if font.getlength(lines[-1] + letter.rstrip()) > WIDTH:
                lines.append("")
            lines[-1] += letter
    return [line.rstrip() for line in lines if line.strip()]
