"""The dashboard in a headless Chromium: it renders, its filters and links work, and its console stays empty."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from experiments.report.dashboard.pages import write_dashboard
from experiments.report.figures import COLORS, ON_DARK
from tests.report.chromium import EXECUTABLE, Page, chromium
from tests.report.conftest import write_with_summary
from tests.report.dashboard import write_record

pytestmark = [pytest.mark.browser, pytest.mark.skipif(EXECUTABLE is None, reason="chromium is not installed")]
DRAWN = ".scatterlayer .point, .scatterlayer .js-line"
# What the first chart of curves, the validation loss, shows: runs, and bands and means.
SHOWN = "document.getElementById('curve-0').data"
RUNS = f"{SHOWN}.filter(curve => curve.customdata)"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dashboard of two finished studies, one of them with a reproduction, and one in progress; only to be read."""
    place = tmp_path_factory.mktemp("dashboard")
    write_with_summary(place / "results")
    write_with_summary(place / "results", "lit", numbers=range(7))
    for seed, status in enumerate(("complete", "running")):
        directory = place / "runs" / "diffusion" / f"lion-s{seed}-0123456789"
        write_record(directory, seed=seed, status=status)
    return write_dashboard(place / "results", place / "runs", place / "dashboard").parent


@pytest.fixture
def study(folder: Path, page: Page) -> Page:
    """The tab with the page of a finished study."""
    page.open((folder / "image_classification--mini--mini.html").as_uri())
    return page


@pytest.mark.parametrize("width", [1400, 420])
def test_all_pages_render_without_console_messages_at_every_width(folder: Path, page: Page, width: int) -> None:
    page.problems.clear()
    page.requests.clear()
    for path in sorted(folder.glob("*.html")):
        page.open(path.as_uri(), width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path.name} is wider than the window"
        empty = f"[...document.querySelectorAll('.chart')].filter(chart => !chart.querySelector('{DRAWN}')).length"
        assert page.evaluate(empty) == 0, f"a chart of {path.name} is not drawn"
    assert page.problems == []
    assert {address.partition(":")[0] for address in page.requests} <= {"file", "data", "about"}


def test_confirm_runs_are_drawn_faintly_under_their_mean_and_band(study: Page) -> None:
    assert study.evaluate(f"{RUNS}.length") == 2 * 12
    assert study.evaluate(f"{RUNS}.every(curve => curve.x.length === 5 && curve.opacity < 0.5)")
    mean, band = study.evaluate(f"{SHOWN}.slice(-2).map(({{x, y}}) => ({{x, y}})).reverse()")
    values = np.array(study.evaluate(f"{RUNS}.slice(-12).map(curve => curve.y)"))
    assert mean["x"] == [40, 80, 120, 160, 200]
    assert mean["y"] == pytest.approx(values.mean(axis=0))
    assert band["y"][:5] == pytest.approx(values.mean(axis=0) - values.std(axis=0, ddof=1))
    assert band["y"][:4:-1] == pytest.approx(values.mean(axis=0) + values.std(axis=0, ddof=1))


def test_filters_select_the_curves(study: Page) -> None:
    study.click("input[value=adamw]")
    assert study.evaluate(f"new Set({RUNS}.map(curve => curve.line.color)).size") == 1
    assert study.evaluate(f"{RUNS}.length") == 12
    study.click("#filters summary")
    study.click("fieldset[data-key=replicate] input[value='3']")
    assert study.evaluate(f"{RUNS}.length") == 10
    assert not study.evaluate(f"{RUNS}.some(curve => curve.customdata[0] === 'replicate-lion-3')")


def test_a_setting_with_many_values_is_filtered_by_range(page: Page, tmp_path: Path) -> None:
    for number in range(10):
        optimizer = {"name": "lion", "lr": 1e-3 * (1 + number)}
        write_record(tmp_path / f"runs/lit/lion-s0-{number}", optimizer)
    folder = write_dashboard(tmp_path / "results", tmp_path / "runs", tmp_path / "dashboard").parent
    page.open(next(folder.glob("lit-*.html")).as_uri())
    assert page.evaluate(f"{RUNS}.length") == 10
    page.click("#filters summary")
    low = "document.querySelector('fieldset[data-key=lr] input')"
    page.evaluate(f"{low}.value = '0.0075'; {low}.dispatchEvent(new Event('change', {{bubbles: true}}))")
    assert page.evaluate(f"{RUNS}.length") == 3
    rows = "[...document.querySelectorAll('tr.run')].filter(row => row.checkVisibility()).map(row => row.id)"
    assert page.evaluate(rows) == ["run-lion-s0-7", "run-lion-s0-8", "run-lion-s0-9"]


def test_the_y_axis_can_be_switched_to_logarithmic(study: Page) -> None:
    axis = "document.getElementById('curve-0').layout.yaxis.type"
    assert study.evaluate(axis) == "linear"
    study.click("input[name=log]")
    assert study.evaluate(axis) == "log"


def test_charts_follow_the_readers_theme(study: Page) -> None:
    colour = "document.getElementById('differences-0').data[1].marker.color"
    light = study.evaluate(colour)
    adamw = f"{SHOWN}.at(-1).line.color"
    assert study.evaluate(adamw) == COLORS["adamw"]
    study.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    study.settle()
    dark = study.evaluate(colour)
    assert study.evaluate(adamw) == ON_DARK[COLORS["adamw"]]
    study.send("Emulation.setEmulatedMedia", features=[])
    study.settle()
    assert (light, dark) == ("#1a1a1a", "#e6e6e6")
    assert study.evaluate(adamw) == COLORS["adamw"]


def test_a_study_table_fits_a_laptop_and_scrolls_on_a_phone(folder: Path, page: Page) -> None:
    wide = "[...document.querySelectorAll('#result ~ .table')].map(table => table.classList.contains('wide'))"
    for width, expected in ((1400, False), (420, True)):
        page.open((folder / "image_classification--mini--mini.html").as_uri(), width)
        assert page.evaluate(wide)[0] is expected
    shown = "document.querySelector('#result ~ .table th:nth-child(3)').getBoundingClientRect().left"
    assert page.evaluate(shown) < 420, "the metric's name leaves room for the verdict and the next column"


def test_the_x_axis_can_be_steps_samples_or_seconds(study: Page) -> None:
    last = f"{SHOWN}[0].x.at(-1)"
    assert study.evaluate(last) == 200
    study.click("input[name=axis][value=samples]")
    assert study.evaluate(last) == 200 * 128
    study.click("input[name=axis][value=seconds]")
    assert study.evaluate(last) == 200 / 20
    assert study.evaluate("document.getElementById('curve-0').layout.xaxis.title.text") == "training time, s"


def test_filtering_keeps_the_zoom_and_changing_the_axis_resets_it(study: Page) -> None:
    shown = "document.getElementById('curve-0').layout.xaxis.range"
    study.drag("#curve-0 .nsewdrag", 0.25, 0.75)
    zoomed = study.evaluate(shown)
    assert 0 < zoomed[0] < zoomed[1] < 200
    study.click("input[value=adamw]")
    assert study.evaluate(f"{RUNS}.length") == 12
    assert study.evaluate(shown) == zoomed
    study.click("input[name=axis][value=samples]")
    assert study.evaluate(shown)[1] >= 200 * 128


def test_the_filters_work_from_the_keyboard(study: Page) -> None:
    study.evaluate("document.querySelector('fieldset[data-key=optimizer] input').focus()")
    study.press(" ", " ")
    assert study.evaluate(f"{RUNS}.length") == 12
    study.press("Tab")
    assert study.evaluate("document.activeElement.value") == "adamw"
    study.press(" ", " ")
    assert study.evaluate(f"{SHOWN}.length") == 0


def test_clicking_a_point_jumps_to_its_replicate(study: Page) -> None:
    study.click("#differences-0 .scatterlayer .point:nth-child(4)")
    assert study.evaluate("location.hash") == "#replicate-lion-3"
    assert 0 <= study.evaluate("document.querySelector(':target').getBoundingClientRect().top") < 1000
