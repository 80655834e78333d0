"""Pages from their templates: everything lies inside the file, and their policy lets only their own scripts run."""

import base64
import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from diffprune.report.figures.palette import DARK, LIGHT, variables
from diffprune.report.figures.render import file_name
from diffprune.report.pages.samples import Samples

KINDS = {"md": "text/markdown", "csv": "text/csv", "tex": "text/x-tex", "svg": "image/svg+xml", "png": "image/png",
         "webp": "image/webp"}
# How images are stored, from exact to small: by what their sides are divided, and the quality (None: as they are).
WAYS = ((1, None), (1, 92), (1, 80), (2, 80), (4, 80), (8, 80), (16, 80))
TEMPLATES = Path(__file__).parent / "templates"


def page(template: str, scripts: Sequence[str] = (), **shown: Any) -> str:
    """The page that `template` makes of what is `shown`; its policy lets `page.js` and then `scripts` run, nothing else. Its
    `footer` is a few words on where its numbers come from."""
    scripts = [asset("page.js"), *scripts]
    policy = ("default-src 'none'; base-uri 'none'; form-action 'none'; style-src 'unsafe-inline'; img-src data:; "
              f"script-src {' '.join(map(fingerprint, scripts))}")
    return environment().get_template(template).render(
        policy=policy, scripts=[Markup(script) for script in scripts], css=Markup(asset("page.css")),
        light=Markup(variables(LIGHT)), dark=Markup(variables(DARK)), **shown)


@cache
def environment() -> Environment:
    """Templates whose variables are escaped, and which fail on an unknown one."""
    out = Environment(loader=PackageLoader("diffprune.report.pages"), autoescape=True, undefined=StrictUndefined,
                      trim_blocks=True, lstrip_blocks=True)
    out.filters |= {"anchor": anchor, "label": label, "name": name, "kept": kept, "file_name": file_name}
    return out


@cache
def asset(file: str) -> str:
    return (TEMPLATES / file).read_text(encoding="utf-8")


def fingerprint(script: str) -> str:
    """The script as a content security policy names it (file:// pages have no origin that a policy could name)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def kept(sections: Mapping[str, str]) -> dict[str, str]:
    """The sections that have content."""
    return {title: content for title, content in sections.items() if content.strip()}


def anchor(title: str) -> str:
    """A section's id, to which links within the page lead."""
    return "-".join("".join(c if c.isalnum() else " " for c in title.lower()).split())


def label(cell: str) -> Markup:
    """A cell's text, in which an arrow or a percent sign never begins a line."""
    return Markup(re.sub(r" (?=[↑↓%])", "&nbsp;", str(escape(cell))))


def name(cell: str) -> Markup:
    """A configuration's name, which may break after an underscore where there is little room."""
    return Markup(str(label(cell)).replace("_", "_<wbr>"))


def data_url(content: str | bytes, file: str) -> str:
    """The content as a data URL, of the kind that the file's name says."""
    content = content.encode() if isinstance(content, str) else content
    return f"data:{KINDS[file.rpartition('.')[2]]};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True)
class Shown:
    """An image inside a page; `width` and `height` are in pixels."""
    url: str
    width: int
    height: int


def shown_images(grid: Samples, budget: int) -> list[list[Shown]]:
    """Each model's images, together in at most `budget` bytes, as near to what was drawn as that allows."""
    for divisor, quality in WAYS:
        out = [[shown_image(image, divisor, quality) for image in row.images] for row in grid.rows]
        if sum(len(image.url) for row in out for image in row) <= budget:
            break
    return out


def shown_image(image: Image.Image, divisor: int = 1, quality: int | None = None) -> Shown:
    """The image with its sides divided, as a data URL."""
    small = image.resize((max(1, image.width // divisor), max(1, image.height // divisor)), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    (image if divisor == 1 else small).convert("RGB").save(out, "webp", lossless=quality is None, quality=quality or 100)
    return Shown(data_url(out.getvalue(), ".webp"), small.width, small.height)
