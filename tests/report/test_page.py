"""The pages in a real browser: they sort, hover, enlarge, load nothing and complain of nothing."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from diffprune import __version__
from diffprune.report import write_report
from diffprune.report.__main__ import report
from diffprune.runs.run import Run
from diffprune.runs.status import RunStatus
from tests.conftest import unavailable
from tests.report.test_report import LAYERS, OPTIONS, make_run, merged

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
SIZES = {name: {"width": width, "height": 900} for name, width in (
    ("narrowest", 320), ("phone", 390), ("tablet", 1024), ("desktop", 1440))}
ADDRESS = "https://wandb.example/somebody/diffprune/runs/x"
PATIENCE = 180_000      # milliseconds: other tests may keep the machine busy
SECONDS = {"random": 7.5, "taylor": 7.25, "diff_pruning": 30.0}
FIDS = {"random": 9.5, "taylor": 10.25, "diff_pruning": 5.5}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        unavailable("there is no Chromium: apt-get install chromium")
    from playwright.sync_api import sync_playwright
    with sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page over three criteria, two seeds, two ratios and two thresholds; one run is half finished."""
    folder = tmp_path_factory.mktemp("page")
    rng = np.random.default_rng(0)
    for name, fid in FIDS.items():
        for seed in (0, 1):
            variant(folder / "runs" / f"{name}-{seed}", rng, fid + seed * SECONDS[name] / 100,
                    {"pruner": {"name": name}, "seed": seed}, seconds={"score": SECONDS[name] * 10 ** seed})
    variant(folder / "runs" / "ratio", rng, 20.0, {"pruner": {"ratio": 0.5}}, params=9e6, macs=1.5e9, speedup=2.0)
    variant(folder / "runs" / "threshold", rng, 6.0, {"pruner": {"threshold": 0.02}})
    make_run(folder / "runs" / "half", {"seed": 7}, finished=False)
    report([folder / "runs"], folder / "out")
    return folder / "out" / "index.html"


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of one run, which lacks its rate."""
    run = Run(make_run(tmp_path_factory.mktemp("own") / "run", images_per_second=None, device="a CPU", first_ssim={
        "final": [0.9 + i / 1000 for i in range(64)], "before_healing": [0.2 + i / 1000 for i in range(64)]}))
    run.finetuned.mkdir()
    (run.finetuned / "model_index.json").write_text("{}")
    run.tracked.write_text(json.dumps({"url": ADDRESS}))
    run.status.write_text(json.dumps(asdict(RunStatus("done", ended=1795824417.0))))
    return write_report(run.folder)


def variant(folder: Path, rng: np.random.Generator, fid: float, options: dict[str, Any], **metrics: Any) -> None:
    """A run whose removed channels and loss are its own, as a real one's are."""
    run = Run(make_run(folder, options, fid=fid, ssim=1 - fid / 100, **metrics))
    groups = [{"root": layer, "before": 128, "after": 96, "removed": sorted(map(int, rng.permutation(128)[:32]))}
              for layer in LAYERS]
    content = run.prune_report.read_text()
    run.prune_report.write_text(content.replace('"groups": []', f'"groups": {groups}'.replace("'", '"')))
    if merged(OPTIONS, options)["pruner"]["name"] != "diff_pruning":
        save_file({"terms/w2/conv_in": np.zeros((4, 1), np.float32)}, run.scores,
                  {"about": '{"criterion": "x", "seconds": 1}'})
    run.report.touch()


@pytest.fixture
def opened(browser: Any, index: Path) -> Iterator[Callable[..., Any]]:
    """Opens the page; at the end, nothing was asked of any machine and the console is empty."""
    contexts, requests, complaints, addresses = [], [], [], []

    def opening(size: str = "desktop", scheme: str = "light", script: bool = True, path: Path = index) -> Any:
        context = browser.new_context(viewport=SIZES[size], color_scheme=scheme, java_script_enabled=script)
        context.set_default_timeout(PATIENCE)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        addresses.append(path.as_uri())
        page.goto(addresses[-1])
        if script:
            page.wait_for_function("document.querySelectorAll('.plot:not(.drawn)').length === 0")
        return page

    yield opening
    for context in contexts:
        context.close()
    assert [url for url in requests if not url.startswith("data:")] == addresses
    assert complaints == []


def column(page: Any, title: str, section: str = "#results") -> list[str]:
    """The cells of the section's column whose heading starts with `title`, from the top."""
    return page.evaluate("""([title, section]) => {
        const table = document.querySelector(section + " table.sortable"), heads = [...table.tHead.rows[0].cells];
        const said = cell => [...cell.querySelectorAll("small")].reduce(
            (text, small) => text.replace(small.textContent, ""), cell.textContent).replaceAll("\u00a0", " ").trim();
        const i = heads.findIndex(cell => said(cell).startsWith(title));
        return [...table.tBodies[0].rows].map(row => row.cells[i].textContent);
    }""", [title, section])


def numbers(cells: list[str]) -> list[float]:
    return [float(cell.split()[0].removeprefix("<").strip() or 0) for cell in cells if cell != "–"]


def fits(page: Any) -> bool:
    """Whether nothing makes the page scroll sideways: no picture and no text that is not in a box that scrolls by itself."""
    outside = """() => [...document.querySelectorAll('main *')].filter(part => !part.closest('.scroll') &&
        part.getBoundingClientRect().right > innerWidth + 1).length"""
    return page.evaluate("document.documentElement.scrollWidth <= innerWidth") and page.evaluate(outside) == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_the_page_fits_its_screen_and_every_figure_moves(opened: Callable, size: str, scheme: str) -> None:
    page = opened(size, scheme)
    assert fits(page)
    assert page.locator(".plot").count() == page.locator(".plot.drawn svg").count() >= 9
    ink, paper = (page.evaluate(f"getComputedStyle(document.body).{name}") for name in ("color", "backgroundColor"))
    brightness = [sum(map(int, colour[4:-1].split(","))) for colour in (ink, paper)]
    assert (brightness[0] < brightness[1]) == (scheme == "light")


def test_a_click_on_a_heading_sorts_by_its_numbers_and_another_turns_them_round(opened: Callable) -> None:
    page = opened()
    heading = page.locator("#results th button", has_text="Fréchet distance").first
    heading.click()
    up = numbers(column(page, "Fréchet distance"))
    assert up == sorted(up)
    assert len(up) > 4
    assert page.locator("#results th[aria-sort=ascending]").count() == 1
    heading.click()
    down = numbers(column(page, "Fréchet distance"))
    assert down == up[::-1]
    heading.press("Enter")     # the keyboard does the same
    assert numbers(column(page, "Fréchet distance")) == up


def test_what_was_not_measured_stays_last_and_names_sort_as_names(opened: Callable) -> None:
    page = opened()
    page.locator("#results .chosen summary").click()
    page.get_by_label("SSIM before healing").check()
    heading = page.locator("#results th button", has_text="SSIM before healing")
    for _ in range(2):
        heading.click()
        assert column(page, "SSIM before healing")[-1] == "–"      # the dense model
    page.locator("#results th button", has_text="configuration").click()
    names = column(page, "configuration")
    assert names == sorted(names)


@pytest.mark.parametrize(("section", "title"), [
    ("#beyond-the-seeds-noise", "difference"), ("#beyond-the-seeds-noise", "95 %"), ("#beyond-the-seeds-noise", "p"),
    ("#how-each-number-was-made", "score [s]"), ("#how-each-number-was-made", "seed")])
def test_every_table_sorts_its_numbers_as_numbers(opened: Callable, section: str, title: str) -> None:
    page = opened()
    page.evaluate("document.querySelectorAll('details').forEach(part => { part.open = true; })")
    heading = page.locator(f"{section} th button").get_by_text(title, exact=title == "p")
    for turn in (False, True):
        heading.first.click()
        shown = column(page, title, section)
        found = numbers(shown)
        assert found == sorted(found, reverse=turn)
        assert len(set(found)) > 1
        assert [cell == "–" for cell in shown] == sorted(cell == "–" for cell in shown)     # what is missing is last


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", list(SIZES))
def test_the_page_of_a_run_fits_its_screen_and_sorts(opened: Callable, own: Path, size: str, scheme: str) -> None:
    page = opened(size, scheme, path=own)
    assert fits(page)
    assert page.locator(".plot svg").count() == 3
    page.locator("#layers summary").click()
    page.locator("#layers th button", has_text="weights after").click()
    after = [int(cell.replace(",", "")) for cell in column(page, "weights after", "#layers")]
    assert after == sorted(after)
    assert len(set(after)) > 1
    assert "images/s" in page.locator("#what-is-missing").text_content()


def test_on_a_phone_the_healed_model_stands_beside_the_dense_one(opened: Callable, own: Path) -> None:
    page = opened("narrowest", path=own)
    heads = page.locator("#results thead th")
    assert heads.all_text_contents()[1:] == ["dense", "pruned and healed", "pruned before healing"]
    assert right_end(heads.nth(2)) <= SIZES["narrowest"]["width"]


@pytest.mark.parametrize("size", list(SIZES))
def test_the_verdict_is_the_second_column_and_is_never_cut(opened: Callable, size: str) -> None:
    page = opened(size)
    for section in ("#results", "#beyond-the-seeds-noise"):
        table = page.locator(f"{section} .verdicts table").first
        assert table.locator("thead th").nth(1).text_content().startswith("verdict")
        verdicts = table.locator("tbody tr td:nth-child(2)")
        assert {"within the seeds' noise", "one seed: cannot say"} & set(verdicts.all_text_contents())
        assert all(right_end(verdicts.nth(i)) <= SIZES[size]["width"] for i in range(verdicts.count()))
        assert all(verdicts.nth(i).evaluate("cell => cell.scrollWidth <= cell.clientWidth") for i in range(verdicts.count()))


def test_six_columns_are_shown_and_the_others_when_they_are_chosen(opened: Callable) -> None:
    for script in (True, False):
        page = opened(script=script)
        shown = page.locator("#results .verdicts thead th:visible")
        assert shown.count() == 2 + 6
        page.locator("#results .chosen summary").click()
        page.get_by_label("images/s").check()
        page.get_by_label("parameters [M]").uncheck()
        assert shown.count() == 2 + 6
        assert any("images/s" in text for text in shown.all_text_contents())


def test_the_corner_of_a_table_stays_when_it_is_scrolled(opened: Callable) -> None:
    page = opened("phone")
    corner, box = page.locator("#results .verdicts thead th").first, page.locator("#results .verdicts")
    before = corner.bounding_box()["x"]
    box.evaluate("box => { box.scrollLeft = 200; }")
    assert corner.bounding_box()["x"] == pytest.approx(before, abs=1)


def test_a_few_numbers_stand_at_the_top(opened: Callable, own: Path) -> None:
    tiles = [tile.split("\n") for tile in opened(path=own).locator(".tiles div").all_inner_texts()]
    assert [tile[:2] for tile in tiles] == [["parameters", "−44\xa0%"], ["MACs", "−44\xa0%"], ["measured speed-up", "1.51×"],
                                            ["Fréchet distance", "5.29"], ["fine-tuning", "400 steps"]]
    assert tiles[3][2] == "dense 4.19, SSIM 0.932"
    many = [tile.split("\n") for tile in opened().locator(".tiles div").all_inner_texts()]
    assert many[2][:2] == ["measured speed-up", "1.51 … 2.00×"]
    assert "best of 5: diff_pruning threshold=0.05" in many[3][2]


@pytest.mark.parametrize("script", [True, False])
def test_images_have_their_similarity_below_them_and_can_be_large(opened: Callable, own: Path, script: bool) -> None:
    page = opened(script=script, path=own)
    rows = page.locator("table.samples tbody tr")
    assert rows.locator("th").all_text_contents() == ["dense", "pruned and healed", "pruned before healing"]
    assert [rows.nth(i).locator("img").count() for i in range(3)] == [16, 16, 16]
    assert [rows.nth(i).locator("small").all_text_contents() for i in range(3)] == [
        [], [f"0.9{i:02}" for i in range(16)], [f"0.2{i:02}" for i in range(16)]]
    before = rows.locator("img").first.bounding_box()["width"]
    page.locator("input.larger").check()
    assert rows.locator("img").first.bounding_box()["width"] > 1.5 * before


def right_end(place: Any) -> float:
    box = place.bounding_box()
    return box["x"] + box["width"]


def test_the_page_of_a_run_stands_without_its_script(opened: Callable, own: Path) -> None:
    page = opened(script=False, path=own)
    assert page.locator(".plot > svg").count() == 3


def test_a_run_and_its_comparison_lead_to_each_other(opened: Callable, browser: Any, index: Path, own: Path) -> None:
    address = opened().locator("#results tbody th a").first.get_attribute("href")
    assert address.startswith("../runs/")
    page = browser.new_context().new_page()
    page.goto(f"{own.as_uri()}#{address.partition('#')[2]}")
    assert page.get_by_text("‹ Comparison").get_attribute("href") == "../../out/index.html"
    page.context.close()


def test_a_run_says_how_its_model_is_loaded_and_where_it_was_made(opened: Callable, own: Path) -> None:
    page = opened(path=own)
    assert page.locator("#load-the-model pre").inner_text().endswith(f'load_pipeline("{own.parent}/finetuned")')
    assert page.locator("#load-the-model a").all_text_contents() == ["finetuned", "This run in Weights & Biases"]
    assert page.locator("#load-the-model a").nth(1).get_attribute("href") == ADDRESS
    footer = page.locator("footer").inner_text()
    for said in ("on a CPU", "ended 2026-11-28", "commit 0123abc", f"diffprune {__version__}"):
        assert said in footer


def test_the_tables_and_figures_of_a_run_can_be_saved(opened: Callable, own: Path) -> None:
    page = opened(path=own)
    links = page.locator("#files a[download]")
    assert set(links.all_text_contents()) == {
        *(f"{name}.{kind}" for name in ("table", "layers", "not-pruned", "missing") for kind in ("md", "csv", "tex")),
        "samples-ddpm_digits-digits.png"}
    starts = {"csv": b"model,params", "png": b"\x89PNG", "svg": b"<svg"}
    for file in ("table.csv", "loss.png", "widths.svg"):
        with page.expect_download() as waiting:
            page.locator(f"a[download='{file}']").click()
        assert waiting.value.suggested_filename == file
        assert Path(waiting.value.path()).read_bytes().startswith(starts[file.rpartition(".")[2]])


def test_a_point_says_which_configuration_it_is(opened: Callable) -> None:
    page = opened()
    place = page.locator("#plot-fid-digits-cnn-macs")
    place.scroll_into_view_if_needed()
    box = place.locator(".mark-symbol path").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    told = page.locator("#vg-tooltip-element.visible")
    told.wait_for()
    assert "dense: 4.19" in told.text_content()         # the dense model's distance
    assert told.bounding_box()["width"] > 50


def test_a_line_says_its_values_and_a_click_on_the_legend_dims_the_others(opened: Callable) -> None:
    page = opened()
    place = page.locator("#plot-widths")
    place.scroll_into_view_if_needed()
    box = place.locator(".mark-symbol:not(.role-legend-symbol) path").first.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    told = page.locator("#vg-tooltip-element.visible")
    told.wait_for()
    assert "output channels" in told.text_content()
    lines = "[...document.querySelectorAll('#plot-widths .mark-line path')]"
    opacities = f"() => {lines}.map(line => getComputedStyle(line).opacity)"
    assert set(page.evaluate(opacities)) == {"1"}
    place.locator(".role-legend-label text").first.click()
    page.wait_for_function(f"new Set(({opacities})()).size === 2")


def test_a_figure_is_zoomed_by_the_wheel_with_ctrl_and_comes_back(opened: Callable) -> None:
    page = opened()
    place = page.locator("#plot-widths")
    place.scroll_into_view_if_needed()
    texts = "[...document.querySelectorAll('#plot-widths .role-axis-label text')]"
    ticks = f"() => {texts}.map(text => text.textContent).sort().join()"
    before, box = page.evaluate(ticks), place.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -5)
    assert page.evaluate(ticks) == before       # without Ctrl the page scrolls
    place.scroll_into_view_if_needed()
    box = place.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.wait_for_function(f"before => ({ticks})() !== before", arg=before)
    page.keyboard.up("Control")
    page.mouse.dblclick(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_function(f"before => ({ticks})() === before", arg=before)


@pytest.mark.parametrize("size", list(SIZES))
def test_an_image_opens_larger_with_its_column_and_arrow_keys_go_on(opened: Callable, own: Path, size: str) -> None:
    page = opened(size, path=own)
    button = page.locator("table.samples tbody tr").nth(1).locator("button").nth(2)
    before = button.locator("img").bounding_box()["width"]
    button.click()
    dialog = page.locator("dialog[open]")
    assert dialog.locator("strong").text_content() == "Noise 2"
    assert dialog.locator("figcaption").all_text_contents() == [
        "dense", "pruned and healed, SSIM 0.902", "pruned before healing, SSIM 0.202"]
    assert all(dialog.locator("img").nth(i).bounding_box()["width"] > 2 * before for i in range(3))
    assert right_end(dialog) <= SIZES[size]["width"]
    assert dialog.evaluate("dialog => dialog.scrollWidth <= dialog.clientWidth")
    for key, noise in (("ArrowRight", 3), ("ArrowLeft", 2), ("ArrowLeft", 1), ("ArrowLeft", 0), ("ArrowLeft", 15)):
        page.keyboard.press(key)
        assert dialog.locator("strong").text_content() == f"Noise {noise}"
        assert dialog.locator("figcaption").nth(1).text_content() == f"pruned and healed, SSIM 0.9{noise:02}"
    dialog.get_by_label("Next noise").click()
    assert dialog.locator("strong").text_content() == "Noise 0"
    page.keyboard.press("Escape")
    page.locator("dialog").wait_for(state="detached")     # a dialog says that it was closed a moment later
    assert page.evaluate("document.activeElement.matches('button.enlarge')")


def test_figures_follow_when_the_evening_comes(opened: Callable) -> None:
    page = opened()
    colour = "() => getComputedStyle(document.querySelector('#plot-widths .mark-line path')).stroke"
    light = page.evaluate(colour)
    page.emulate_media(color_scheme="dark")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert page.evaluate(colour) != light


def test_without_scripts_the_figures_are_there_and_still(opened: Callable) -> None:
    page = opened(script=False)
    assert page.locator(".plot > svg").count() == page.locator(".plot").count() >= 9
    assert page.locator("#results tbody tr").count() > 4


def test_everything_has_a_name_and_the_half_finished_run_a_reason(opened: Callable) -> None:
    page = opened()
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    assert page.locator(".plot:not([aria-label]), .plot[aria-label='']").count() == 0
    assert all(page.locator(".plot").nth(i).get_attribute("aria-label").count(" ") > 5
               for i in range(page.locator(".plot").count()))
    text = page.locator("#what-is-missing").text_content()
    assert "half" in text
    assert "scored, pruned, in training at step 400" in text


def test_every_figure_is_there_as_png_and_svg(index: Path) -> None:
    names = {path.stem for path in (index.parent / "figures").glob("[!.]*")}
    assert {"fid-digits-cnn-macs", "fid-digits-cnn-latency", "fid-digits-cnn-ratio", "fid-digits-cnn-threshold", "ssim-macs",
            "loss-ddpm_digits-digits", "overlap", "widths", "samples-ddpm_digits-digits"} <= names
    for name in names - {"samples-ddpm_digits-digits"}:
        assert (index.parent / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert "<svg" in (index.parent / "figures" / f"{name}.svg").read_text()
        assert "var(--" not in (index.parent / "figures" / f"{name}.svg").read_text()
