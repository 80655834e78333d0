"""The files of a report: every table as Markdown, CSV and LaTeX, every figure as SVG and PNG."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffprune.report.figures.chart import Absent, Figure
from diffprune.report.figures.render import Drawing, draw, file_name
from diffprune.report.pages import samples
from diffprune.report.tables.table import Table
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, is_folder

Drawings = list[tuple[Figure, Drawing]]
Contents = Mapping[str, str | bytes | None]     # {file: its content}; None: there is none


def drawings(figures: Iterable[Figure | Absent]) -> Drawings:
    """The figures that can be drawn, each with its drawing."""
    return [(figure, draw(figure)) for figure in figures if not isinstance(figure, Absent)]


def figure_files(shown: Drawings, grids: Sequence[samples.Samples]) -> dict[str, str | bytes]:
    """{file: content} of every figure and every grid of samples."""
    out: dict[str, str | bytes] = {samples.file(grid): samples.png(grid) for grid in grids}
    for figure, drawing in shown:
        out |= {f"{file_name(figure.name)}.svg": drawing.svg, f"{file_name(figure.name)}.png": drawing.png}
    return out


def table_files(tables: Mapping[str, Table | None]) -> dict[str, str | None]:
    """{file: content} of every table; None for a table that there is not."""
    out: dict[str, str | None] = {}
    for name, table in tables.items():
        texts = (table.markdown(bold=True), table.csv(), table.latex()) if table else (None, None, None)
        out |= zip((f"{name}.md", f"{name}.csv", f"{name}.tex"), texts, strict=True)
    return out


def write(folder: Path, contents: Contents) -> None:
    """Writes each file into `folder`, whole or not at all; a file whose content is None is deleted.

    Raises UserError, before anything is written, where a folder has a file's name.
    """
    for name in contents:
        if is_folder(folder / name):
            raise UserError(f"{folder / name} is a folder, and the report has a file of that name: give another place, or "
                            "move the folder away")
    for name, content in contents.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
            continue
        with atomic_file(folder / name) as partial:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)


def write_listed(folder: Path, contents: Contents, manifest: str) -> None:
    """Writes the files, and their names into the file `manifest`; deletes the files that only an earlier manifest names."""
    earlier = (folder / manifest).read_text().splitlines() if (folder / manifest).is_file() else []
    stale = {name: None for name in earlier if name not in contents and Path(name).name == name}
    write(folder, {**stale, **contents, manifest: "".join(f"{name}\n" for name in contents)})
