"""Images on pages: 64 of them where they are still there, those of the training, and never more than a page can hold."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffprune.report import write_report
from diffprune.report.finished import Finished
from diffprune.report.pages.page import shown_images
from diffprune.report.pages.samples import own_samples, previews
from diffprune.runs.samples import Samples
from diffprune.runtime.checksums import sha256
from tests.report.test_report import draw_grid, make_run


@pytest.fixture
def drawn(tmp_path: Path) -> Finished:
    """A run whose 100 images, and those that it shares with others, are there; image i is filled with i."""
    return with_images(Finished.of(make_run(tmp_path / "run", {"paths": {"cache": str(tmp_path / "cache")}})), 8)


def with_images(run: Finished, size: int) -> Finished:
    shared = {name: f"images/{name}.npy" for name in ("dense", "before_healing")}
    Samples(100, {}, shared, 1.0).write(run.run)
    (run.cache / "images").mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 40, (100, size, size, 3), dtype=np.uint8)
    for file in (run.run.images, *(run.cache / name for name in shared.values())):
        np.save(file, noise + np.arange(100, dtype=np.uint8)[:, None, None, None])
        file.with_name(f".{file.name}.sha256").write_text(f"{sha256(file)}  {file.name}\n")
    return run


def test_a_run_shows_64_noises_where_its_images_are_kept(drawn: Finished) -> None:
    grid = own_samples(drawn)
    assert [(row.model, len(row.images)) for row in grid.rows] == [
        ("dense", 64), ("pruned and healed", 64), ("pruned before healing", 64)]
    further = grid.part(16, 64)
    assert (further.first, further.noises) == (16, 48)
    assert further.rows[0].images[0].getpixel((0, 0)) == grid.rows[0].images[16].getpixel((0, 0))


@pytest.mark.parametrize("lost", ["dense", "before_healing"])
def test_where_shared_images_are_gone_or_damaged_the_grid_serves(drawn: Finished, lost: str) -> None:
    (drawn.cache / "images" / f"{lost}.npy").write_bytes(b"damaged")
    assert own_samples(drawn).noises == 16
    assert (drawn.cache / "images" / f"{lost}.npy").exists()        # a report deletes nothing
    (drawn.cache / "images" / f"{lost}.npy").unlink()
    assert own_samples(drawn).noises == 16


def test_the_training_is_shown_by_its_previews_the_last_one_included(tmp_path: Path) -> None:
    run = Finished.of(make_run(tmp_path / "run"))
    for step in range(100, 2100, 100):
        draw_grid(replace_grid(run, step), 2)
    shown = previews(run)
    assert [row.model for row in shown.rows] == ["dense", *(f"step {step}" for step in (100, 500, 900, 1200, 1600, 2000))]
    assert [row.images[0].getpixel((0, 0)) for row in shown.rows] == [50, *[100] * 6]


def replace_grid(run: Finished, step: int) -> "object":
    """The run as `draw_grid` takes it, with a preview in the place of its grid."""
    class Place:
        samples, grid = run.run.finetune / f"of-{step}", run.run.preview(step)
    return Place()


def test_a_run_without_previews_shows_none(drawn: Finished) -> None:
    assert previews(drawn) is None


@pytest.mark.slow
def test_the_page_of_a_run_of_photographs_is_below_two_megabytes(tmp_path: Path) -> None:
    run = with_images(Finished.of(make_run(tmp_path / "run", {"paths": {"cache": str(tmp_path / "cache")}})), 256)
    page = write_report(run.run.folder)
    assert page.read_text().count('class="enlarge"') == 3 * 64
    assert page.stat().st_size < 2_000_000


def test_images_that_fit_are_not_made_smaller(drawn: Finished) -> None:
    grid = own_samples(drawn)
    assert all(image.width == 8 for row in shown_images(grid, 10**6) for image in row)
    one = replace(grid.rows[0], images=[Image.new("RGB", (100, 60))])
    ((image,),) = shown_images(replace(grid, rows=[one]), 10**6)
    assert (image.width, image.height) == (100, 60)
