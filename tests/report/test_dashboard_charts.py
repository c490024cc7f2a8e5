"""The dashboard's charts: every number in them is one of the records."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.report.dashboard.forest import forest
from experiments.report.dashboard.pages import ASSETS
from experiments.report.dashboard.records import columns, published_studies
from experiments.report.figures import COLORS, ON_DARK, SPARE_COLORS
from experiments.report.rebuild import read_summary
from experiments.study.replicates import read_replicates
from tests.report.conftest import WriteStudy
from tests.report.dashboard import STUDY_PAGE, Page, build, built


def test_the_forest_plot_shows_each_difference_in_units_of_its_margin(write_study: WriteStudy, tmp_path: Path) -> None:
    comparison = read_summary(write_study(gain=0.03, numbers=range(5)))["comparisons"][0]
    write_study("lit", gain=0.9, diverged=[(1, "lion")])
    write_study("finetuning", numbers=[0])
    write_study("diffusion", gain=-0.9)
    write_study("diffusion", "smoke", "smoke", declared=0)
    drawn = forest(published_studies(tmp_path / "results"))
    far, one, row, lost = (each for each in drawn["rows"] if each["study"].summary["declared"])
    reach = 8.0
    low, high = (-end / comparison["margin"] for end in reversed(comparison["difference"]["ci95"]))
    assert row["mean"] == pytest.approx(
        50 + 50 * -comparison["difference"]["mean"] / comparison["margin"] / reach, abs=0.01
    )
    assert (row["low"], row["high"]) == pytest.approx((50 + 50 * low / reach, 50 + 50 * high / reach), abs=0.01)
    mean, (start, end) = comparison["difference"]["mean"], comparison["difference"]["ci95"]
    assert mean < 0 < row["mean"] - 50, "Lion's loss is lower, so it lies on the side of the first"
    assert row["told"] == f"{mean:.4f} ({start:.4f} to {end:.4f})", "with the sign of the study's page"
    assert drawn["sides"] == ["Lion", "AdamW"]
    assert f"{-mean / comparison['margin']:.1f} margins in favour of Lion" in row["hover"]
    assert row["exploratory"]
    assert (far["low"], far["mean"], far["beyond"]) == (0, 0, (True, False)), "it ends at the edge, with an arrow"
    assert far["color"] == COLORS["adamw"]
    assert one["why"] == "one replicate: no interval"
    assert lost["why"] == "confirm runs diverged: Lion in 1 of 6", "the replicates that are left are a selection"
    assert [at for text, at in drawn["ticks"] if text == "2"] == [50 - 50 * 2 / reach, 50 + 50 * 2 / reach]
    assert drawn["tie"] == (50 - 50 / reach, 50 + 50 / reach)


def test_chart_click_targets_exist_on_the_page(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(diverged=[(1, "lion")], numbers=range(7))
    page = built(tmp_path)
    traces = [trace for chart in page.data["charts"].values() for trace in chart["data"] if "customdata" in trace]
    targets = {str(place) for trace in traces for place in trace["customdata"]}
    assert len(targets) == 5 + 1, "five replicates that count and one that reproduces"
    assert {run["place"] for run in page.data["runs"]} == {f"replicate-lion-{number}" for number in range(7)}
    assert targets | {run["place"] for run in page.data["runs"]} <= set(page.ids)


def test_charts_are_valid_plotly_figures(write_study: WriteStudy, tmp_path: Path) -> None:
    import plotly.graph_objects as go

    write_study(numbers=range(7))
    charts = built(tmp_path).data["charts"]
    charts = json.loads(re.sub(r'"--\w+"', '"red"', json.dumps(charts))).values()  # page.js inserts a theme's colours
    assert [len(go.Figure(chart).data) for chart in charts] == [3, 3, 2 * 6 + 2, *[3] * 8]


def test_search_charts_show_every_trial_and_diverged_ones_apart(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study(stages=(20, 4))
    charts = built(tmp_path).data["charts"]
    trials = [run for each in read_replicates(study) for run in each.of("lion", "search")]
    known, best, lost = charts["search-1"]["data"]
    assert sorted(known["x"]) == sorted(run.unit[0] for run in trials if not run.diverged)
    assert sorted(lost["x"]) == sorted(run.unit[0] for run in trials if run.diverged)
    assert lost["yaxis"] == "y2", "they lie in a band of their own"
    worse, band = (charts["search-1"]["layout"][axis]["domain"] for axis in ("yaxis", "yaxis2"))
    assert worse[1] < band[0], "which is above the others, where lower is better"
    assert len(best["x"]) == 6, "a winner a replicate"
    assert all(": diverged" in text for text in lost["text"])


def test_the_difference_chart_matches_the_summary(write_study: WriteStudy, tmp_path: Path) -> None:
    study = write_study(diverged=[(0, "lion"), (1, "lion")])
    comparison = read_summary(study)["comparisons"][0]
    chart = built(tmp_path).data["charts"]["differences-0"]
    (replicates, mean), layout = chart["data"], chart["layout"]
    assert replicates["x"] == ["2", "3", "4", "5"]
    assert np.mean(replicates["y"]) == pytest.approx(comparison["difference"]["mean"])
    assert mean["y"][0] - mean["error_y"]["arrayminus"][0] == pytest.approx(comparison["difference"]["ci95"][0])
    assert mean["y"][0] + mean["error_y"]["array"][0] == pytest.approx(comparison["difference"]["ci95"][1])
    assert replicates["marker"]["color"] == COLORS["lion"]
    assert layout["xaxis"]["title"]["text"] == "replicate"
    assert layout["yaxis"]["title"]["text"].startswith("above 0: AdamW is better"), "of a loss"
    (margin,) = (shape for shape in layout["shapes"] if "fillcolor" in shape)
    assert (margin["x0"], margin["x1"]) == (4 - 0.4, 4 + 0.4), "behind the mean only, which a tie is about"


def test_captions_of_absent_charts_are_omitted_for_one_replicate(write_study: WriteStudy, tmp_path: Path) -> None:
    write_study(numbers=[0])
    write_study("lit", numbers=range(2))
    folder = build(tmp_path)
    assert "the diamond is the mean" not in Page(folder / STUDY_PAGE).text
    assert "the diamond is the mean" in Page(folder / "lit--mini--mini.html").text


def contrast(color: str, ground: str) -> float:
    """The contrast ratio of WCAG 2.2, for colours like ``#0072B2``."""

    def luminance(of: str) -> float:
        shares = [int(of[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]
        return float(np.dot((0.2126, 0.7152, 0.0722), linear))

    low, high = sorted(map(luminance, (color, ground)))
    return (high + 0.05) / (low + 0.05)


def test_every_optimizers_colour_has_enough_contrast_in_the_dark_theme() -> None:
    ground = re.findall(r"--paper: (#\w{6})", (ASSETS / "page.css").read_text())[0]
    shown = [ON_DARK.get(color, color) for color in (*COLORS.values(), *SPARE_COLORS)]
    assert min(contrast(color, ground) for color in shown) > 4.5, "3 is needed for graphics, 4.5 for text"
    assert len(set(shown)) == len(shown)


def test_training_seconds_of_evaluations_are_interpolated() -> None:
    rows: list[dict[str, float]] = [
        {"step": 0, "samples": 0, "val/top1": 10.0},
        {"step": 10, "samples": 320, "train/loss": 2.0, "time/train_s": 4.0},
        {"step": 15, "samples": 480, "val/top1": 20.0},
        {"step": 20, "samples": 640, "train/loss": 1.0, "time/train_s": 6.0},
        {"step": 25, "samples": 800, "val/top1": 30.0},
    ]
    assert columns(rows, ["train/loss", "val/top1", "val/loss"]) == {
        "step": [0, 10, 15, 20, 25],
        "samples": [0, 320, 480, 640, 800],
        "seconds": [0.0, 4.0, 5.0, 6.0, None],
        "train/loss": [None, 2.0, None, 1.0, None],
        "val/top1": [10.0, None, 20.0, None, 30.0],
    }


def test_dashboard_curves_contain_every_row_of_a_run(write_study: WriteStudy, tmp_path: Path) -> None:
    run = read_replicates(write_study())[3].of("lion", "confirm")[1]
    data = built(tmp_path).data
    (shown,) = (each["columns"] for each in data["runs"] if run.run_id in each["label"])
    assert shown["samples"] == [row["samples"] for row in run.rows]
    assert shown["seconds"] == pytest.approx([row["step"] / 20 for row in run.rows])
    assert shown["train/loss"] == [
        pytest.approx(row["train/loss"], rel=1e-5) if "train/loss" in row else None for row in run.rows
    ]
    assert list(data["panels"].values()) == ["val/loss", "val/top1", "train/loss"], "the search's metric leads"
