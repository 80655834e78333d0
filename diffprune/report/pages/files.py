"""The files of a report: every table as Markdown, CSV and LaTeX, every figure as SVG and PNG."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from diffprune.report.figures.chart import Absent, Figure
from diffprune.report.figures.render import Drawing, draw, file_name
from diffprune.report.pages.samples import Samples, picture
from diffprune.report.tables.table import Table
from diffprune.runtime.errors import UserError
from diffprune.runtime.files import atomic_file, is_folder

Drawings = list[tuple[Figure, Drawing]]
Contents = dict[str, str | bytes]       # {file: its content}


def drawings(figures: Iterable[Figure | Absent]) -> Drawings:
    """The figures that can be drawn, each with its drawing. Of two whose files would have one name the later is renamed."""
    named: dict[str, Figure] = {}
    for figure in figures:
        if not isinstance(figure, Absent):
            if file_name(figure.name) in named:
                figure = replace(figure, name=f"{figure.name}#")     # the name of its file ends in a hash
            named[file_name(figure.name)] = figure
    return [(figure, draw(figure)) for figure in named.values()]


def figure_files(shown: Drawings) -> dict[str, Contents]:
    """{name of a figure: {file: content}}"""
    return {figure.name: {f"{file_name(figure.name)}.svg": drawing.svg, f"{file_name(figure.name)}.png": drawing.png}
            for figure, drawing in shown}


def sample_files(grids: Iterable[Samples]) -> Contents:
    """{file: content} of every grid of samples."""
    return {grid.file: picture(grid) for grid in grids}


def table_files(tables: Mapping[str, Table | None]) -> dict[str, Contents]:
    """{name of a table: {file: content}} of every table that there is."""
    return {name: {f"{name}.md": table.markdown(bold=True), f"{name}.csv": table.csv(), f"{name}.tex": table.latex()}
            for name, table in tables.items() if table is not None}


def together(files: Mapping[str, Contents]) -> Contents:
    """{file: content} of all tables or figures."""
    return {file: content for contents in files.values() for file, content in contents.items()}


def write(folder: Path, contents: Mapping[str, str | bytes | None]) -> None:
    """Writes each file into `folder`, whole or not at all; a file whose content is None is deleted. Raises UserError, before
    anything is written, where a folder has a file's name."""
    for name in contents:
        if is_folder(folder / name):
            raise UserError(f"{folder / name} is a folder, and the report has a file of that name: give another place, or "
                            "move the folder away")
    for name, content in contents.items():
        if content is None:
            (folder / name).unlink(missing_ok=True)
            continue
        with atomic_file(folder / name) as partial:
            partial.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)


def write_listed(folder: Path, contents: Contents, manifest: str) -> None:
    """Writes the files, and their names into the file `manifest`; deletes the files that only an earlier manifest names.
    Raises UserError, before anything is written, for a file that is there and that no earlier manifest names: it is not of
    this program."""
    listed = folder / manifest
    earlier = listed.read_text(encoding="utf-8").splitlines() if listed.is_file() else []
    for name in contents:
        if name not in earlier and (folder / name).is_file():
            raise UserError(f"{folder / name} is not of an earlier report: give another place, or move the file away")
    stale = [name for name in earlier if name not in contents and not {"..", "/"} & set(Path(name).parts)]
    # The names come first, so that after an interruption the next report knows its own files.
    write(folder, {manifest: "".join(f"{name}\n" for name in [*contents, *stale]), **contents, **dict.fromkeys(stale)})
    write(folder, {manifest: "".join(f"{name}\n" for name in contents)})
