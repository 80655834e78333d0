"""Pages from their templates: everything lies inside the file, and their policy lets only their own scripts run."""

import base64
import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from PIL import Image

from diffprune.report.figures.palette import DARK, LIGHT, variables
from diffprune.report.figures.render import file_name

KINDS = {"md": "text/markdown", "csv": "text/csv", "tex": "text/x-tex", "svg": "image/svg+xml", "png": "image/png",
         "jpeg": "image/jpeg"}
SMALL = 64              # pixels; larger images are stored as JPEG, smaller ones as they are
QUALITY = 92
TEMPLATES = Path(__file__).parent / "templates"


def page(template: str, scripts: Sequence[str] = (), **shown: Any) -> str:
    """The page that `template` makes of what is `shown`; its policy lets `page.js` and then `scripts` run, nothing else."""
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
    out.filters |= {"anchor": anchor, "label": label, "name": name, "percent": quote, "data_url": data_url,
                    "image_url": image_url, "kept": kept, "file_name": file_name}
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
    """A cell's text, whose arrow never stands alone on a line."""
    return Markup(str(escape(cell)).replace(" ↑", "&nbsp;↑").replace(" ↓", "&nbsp;↓"))


def name(cell: str) -> Markup:
    """A configuration's name, which may break after an underscore where there is little room."""
    return Markup(str(label(cell)).replace("_", "_<wbr>"))


def data_url(content: str | bytes, file: str) -> str:
    """The content as a data URL, of the kind that the file's name says."""
    content = content.encode() if isinstance(content, str) else content
    return f"data:{KINDS[file.rpartition('.')[2]]};base64,{base64.b64encode(content).decode()}"


def image_url(image: Image.Image) -> str:
    """The image as a data URL."""
    kind, options = ("png", {"optimize": True}) if image.width <= SMALL else ("jpeg", {"quality": QUALITY})
    out = io.BytesIO()
    (image if kind == "png" else image.convert("RGB")).save(out, kind, **options)
    return data_url(out.getvalue(), f".{kind}")
