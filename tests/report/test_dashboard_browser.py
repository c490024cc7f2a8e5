"""The dashboard in a headless Chromium: it draws, its filters and links work, and its console stays empty."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.report.dashboard.site import write_dashboard
from tests.report.chromium import EXECUTABLE, Page, chromium
from tests.report.conftest import WriteStudy
from tests.report.dashboard_records import write_record

pytestmark = [pytest.mark.browser, pytest.mark.skipif(EXECUTABLE is None, reason="chromium is not installed")]
DRAWN = ".scatterlayer .point, .scatterlayer .js-line"
# What the first chart of curves, the training loss, shows.
SHOWN = "document.getElementById('curve-0').data"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with chromium(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def folder(write_study: WriteStudy, tmp_path: Path) -> Path:
    """A dashboard of two finished studies, one of them with a reproduction, and one under way."""
    write_study()
    write_study("lit", numbers=range(7))
    for seed, status in enumerate(("complete", "running")):
        directory = tmp_path / "runs" / "diffusion" / f"lion-s{seed}-0123456789"
        write_record(directory, {"name": "lion", "lr": 1e-3}, seed=seed, status=status)
    return write_dashboard(tmp_path / "results", tmp_path / "runs", tmp_path / "dashboard").parent


@pytest.fixture
def study(folder: Path, page: Page) -> Page:
    """The tab with the page of a finished study."""
    page.open((folder / "image_classification--mini--mini.html").as_uri())
    return page


@pytest.mark.parametrize("width", [1400, 420])
def test_all_pages_draw_silently_at_every_width(folder: Path, page: Page, width: int) -> None:
    page.problems.clear()
    page.requests.clear()
    for path in sorted(folder.glob("*.html")):
        page.open(path.as_uri(), width)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, f"{path.name} is wider than the window"
        empty = f"[...document.querySelectorAll('.chart')].filter(chart => !chart.querySelector('{DRAWN}')).length"
        assert page.evaluate(empty) == 0, f"a chart of {path.name} is not drawn"
    assert page.problems == []
    assert {address.partition(":")[0] for address in page.requests} <= {"file", "data", "about"}


def test_a_curve_is_drawn_for_every_reported_run(study: Page) -> None:
    assert study.evaluate(f"{SHOWN}.length") == 2 * 12
    assert study.evaluate(f"{SHOWN}.every(curve => curve.x.length === 10)")


def test_filters_choose_the_curves(study: Page) -> None:
    study.click("input[name=optimizer][value=adamw]")
    assert study.evaluate(f"new Set({SHOWN}.map(curve => curve.line.color)).size") == 1
    assert study.evaluate(f"{SHOWN}.length") == 12
    study.click("input[name=seed][value='301']")
    assert study.evaluate(f"{SHOWN}.length") == 11
    assert not study.evaluate(f"{SHOWN}.some(curve => curve.customdata[0] === 'run-lion-s301-confirm0x1')")


def test_the_x_axis_is_steps_samples_or_seconds(study: Page) -> None:
    last = f"{SHOWN}[0].x.at(-1)"
    assert study.evaluate(last) == 200
    study.click("input[name=axis][value=samples]")
    assert study.evaluate(last) == 200 * 128
    study.click("input[name=axis][value=seconds]")
    assert study.evaluate(last) == 200 / 20
    assert study.evaluate("document.getElementById('curve-0').layout.xaxis.title.text") == "training time, s"


def test_a_filter_keeps_the_zoom_and_another_axis_ends_it(study: Page) -> None:
    shown = "document.getElementById('curve-0').layout.xaxis.range"
    study.drag("#curve-0 .nsewdrag", 0.25, 0.75)
    zoomed = study.evaluate(shown)
    assert 0 < zoomed[0] < zoomed[1] < 200
    study.click("input[name=optimizer][value=adamw]")
    assert study.evaluate(f"{SHOWN}.length") == 12
    assert study.evaluate(shown) == zoomed
    study.click("input[name=axis][value=samples]")
    assert study.evaluate(shown)[1] >= 200 * 128


def test_the_filters_work_from_the_keyboard(study: Page) -> None:
    study.evaluate("document.querySelector('input[name=optimizer]').focus()")
    study.press(" ", " ")
    assert study.evaluate(f"{SHOWN}.length") == 12
    study.press("Tab")
    assert study.evaluate("document.activeElement.value") == "adamw"
    study.press(" ", " ")
    assert study.evaluate(f"{SHOWN}.length") == 0


def test_a_link_opens_the_run_that_it_leads_to(study: Page) -> None:
    run = "document.getElementById('run-lion-s201-confirm0x1')"
    assert not study.evaluate(f"{run}.open")
    study.click("#pair-0-2 a")
    assert study.evaluate(f"{run}.open")
    assert 0 <= study.evaluate(f"{run}.getBoundingClientRect().top") < 1000


def test_a_click_on_a_point_leads_to_its_pair(study: Page) -> None:
    study.click("#differences-0 .scatterlayer .point:nth-child(4)")
    assert study.evaluate("location.hash") == "#pair-0-3"
