"""What the page of a run and that of a comparison have in common: figures, samples, what is missing; and their files."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffprune.report.figures.chart import Absent, Chart, Matrix, counted
from diffprune.report.figures.drawn import Drawing, drawn, file_name
from diffprune.report.pages import page, samples
from diffprune.report.tables.table import Table
from diffprune.runtime.files import atomic_file, remove

Drawings = list[tuple[Chart | Matrix, Drawing]]


def drawings(charts: Iterable[Chart | Matrix | Absent]) -> Drawings:
    return [(chart, drawn(chart)) for chart in charts if not isinstance(chart, Absent)]


def figures(shown: Drawings) -> list[str]:
    """Each as it was drawn, for where no script runs and for print; a script may put what moves in its place."""
    parts = (f'<figure><h3>{page.escape(chart.title)}</h3><div class="plot" id="plot-{page.escape(chart.name)}" role="img" '
             f'aria-label="{page.escape(chart.alt)}">{drawing.inline}</div>'
             f"<figcaption>{page.escape(chart.caption)}{numbered(chart)}</figcaption></figure>"
             for chart, drawing in shown)
    return [f'<div class="figures">{"".join(parts)}</div>'] if shown else []


def numbered(chart: Chart | Matrix) -> str:
    """The names that an axis only counts."""
    if isinstance(chart, Chart) or not chart.numbered:
        return ""
    return f"<ol>{''.join(f'<li>{page.name(label)}</li>' for label in chart.labels)}</ol>"


def sample_section(grid: samples.Samples, whose: str = "") -> list[str]:
    left_out = f" {counted(grid.left_out, 'more configuration')} found no room here." if grid.left_out else ""
    return [page.paragraph(f"{grid.title}. Every row starts from the same noise, every column is a model{whose}. "
                           f"An image opens larger beside the others of its noise.{left_out}"), samples.table(grid)]


def missing_section(missing: Table | None, nothing: str) -> list[str]:
    return [page.table(missing.header, missing.body, "prose") if missing else page.paragraph(nothing)]


def write_files(folder: Path, tables: Mapping[str, Table | None], shown: Drawings, grids: Sequence[samples.Samples]) -> None:
    """Every table as Markdown, CSV and LaTeX, every figure as PNG and SVG; what an earlier report left there goes."""
    pictures = picture_files(shown, grids)
    for stale in {path.name for path in (folder / "figures").glob("*")} - pictures.keys():
        remove(folder / "figures" / stale)
    for name, content in pictures.items():
        write(folder / "figures" / name, content)
    for name, content in table_files(tables).items():
        write(folder / name, content)


def picture_files(shown: Drawings, grids: Iterable[samples.Samples]) -> dict[str, str | bytes]:
    """{file: content} of every figure."""
    out = {f"{file_name(chart.name)}{end}": content for chart, drawing in shown
           for end, content in ((".svg", drawing.svg), (".png", drawing.png))}
    for grid in grids:
        out |= samples.pictures(grid)
    return out


def table_files(tables: Mapping[str, Table | None]) -> dict[str, str | None]:
    """{file: content}; None for a table that there is not."""
    return {file: text for name, table in tables.items() for file, text in formats(name, table).items()}


def formats(name: str, table: Table | None) -> dict[str, str | None]:
    """{file: its text}; None for a table that there is not."""
    return {f"{name}.md": table and table.markdown(bold=True), f"{name}.csv": table and table.csv(),
            f"{name}.tex": table and table.latex()}


def write(path: Path, content: str | bytes | None) -> None:
    """Whole or not at all; None: the file goes."""
    if content is None:
        path.unlink(missing_ok=True)
        return
    with atomic_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
