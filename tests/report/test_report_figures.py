"""The figures of synthetic studies: there, small, in the fixed colours, and the same bytes every time."""

import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.lines import Line2D

from experiments.harness.errors import DataError
from experiments.report.figures import draw, learning_curves, learning_rate_sweep, paired_differences

WriteStudy = Callable[..., Path]
VERMILLION, BLUE = (213, 94, 0), (0, 114, 178)
ALL = ["learning-curves.png", "learning-rate-sweep.png", "paired-differences-lion-adamw.png"]


def read(directory: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((directory / "summary.json").read_text())
    return summary


def drawn(directory: Path) -> list[str]:
    return draw(directory, read(directory))


def xy(line: Line2D) -> tuple[list[float], list[float]]:
    x, y = np.asarray(line.get_xydata(), dtype=float).T.tolist()
    return x, y


def rgb(line: Line2D) -> tuple[float, float, float]:
    return to_rgb(line.get_color())


def pixels_of(path: Path, color: tuple[int, int, int]) -> int:
    image = np.round(matplotlib.image.imread(path)[:, :, :3] * 255).astype(int)
    return int((image == color).all(axis=2).sum())


def test_figures_are_small_and_every_optimizer_has_its_colour(write_study: WriteStudy) -> None:
    directory = write_study()
    assert drawn(directory) == ALL
    for name in ALL:
        assert (directory / name).stat().st_size < 150_000
        assert pixels_of(directory / name, VERMILLION) > 100
    for name in ALL[:2]:
        assert pixels_of(directory / name, BLUE) > 100


def test_curves_are_means_over_the_seeds_that_completed(write_study: WriteStudy) -> None:
    directory = write_study(seeds=4, diverged={"lion": 1})
    _, validation = learning_curves(directory, read(directory)).axes
    lion, adamw = validation.get_lines()
    for line, name, seeds in ((lion, "lion", (1, 2, 3)), (adamw, "adamw", (0, 1, 2, 3))):
        final = []
        for seed in seeds:
            text = (directory / "runs" / f"{name}-s{seed}-0123456789" / "metrics.jsonl").read_text()
            final.append([row["val/top1"] for row in map(json.loads, text.splitlines()) if "val/top1" in row][-1])
        steps, values = xy(line)
        assert steps == [25, 50, 75, 100, 125, 150, 175, 200]
        assert values[-1] == pytest.approx(sum(final) / len(seeds))
        band = next(
            band
            for band in validation.collections
            if np.asarray(band.get_facecolor())[0, :3] == pytest.approx(rgb(line))
        )
        x, y = np.asarray(band.get_paths()[0].vertices, dtype=float).T
        assert np.ptp(y[x == 200]) == pytest.approx(2 * statistics.stdev(final))
    assert lion.get_label() == "Lion (3 of 4 seeds)"


def test_the_sweep_shows_every_trial_and_marks_those_that_diverged(write_study: WriteStudy) -> None:
    (axes,) = learning_rate_sweep(read(write_study(decays=(0.3, 1.0)))).axes
    assert axes.get_xscale() == "log"
    lines = [xy(line) for line in axes.get_lines() if line.get_color() == "#D55E00"]
    (_, low_decay), (rates, full_decay), (diverged_rates, _) = lines
    assert low_decay[:3] == pytest.approx([52.1, 55.85, 57.1])
    assert full_decay[:3] == pytest.approx([53.1, 56.85, 58.1])
    assert rates == pytest.approx([1e-4, 10**-3.5, 1e-3, 10**-2.5])
    assert np.isnan(full_decay[3])
    assert set(diverged_rates) == {rates[3]}


def test_paired_differences_leave_out_seeds_with_a_diverged_run(write_study: WriteStudy) -> None:
    summary = read(write_study(seeds=4, diverged={"lion": 1}))
    comparison = summary["comparisons"][0]
    (axes,) = paired_differences(summary, comparison).axes
    points = next(line for line in axes.get_lines() if line.get_label() == "one seed")
    lion, adamw = comparison["per_seed"]["lion"], comparison["per_seed"]["adamw"]
    assert lion[0] is None
    assert xy(points)[1] == [lion[seed] - adamw[seed] for seed in (1, 2, 3)]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3", "mean"]
    assert axes.get_ylabel() == "above 0: Lion is better"
    comparison["better"] = "lower"
    assert paired_differences(summary, comparison).axes[0].get_ylabel() == "above 0: AdamW is better"


def test_drawing_again_gives_the_same_bytes_whatever_the_readers_own_style(write_study: WriteStudy) -> None:
    directory = write_study(decays=(0.3, 1.0), optimizers=("lion", "adamw", "signum"))
    first = {name: (directory / name).read_bytes() for name in drawn(directory)}
    assert "paired-differences-signum-adamw.png" in first
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "savefig.dpi": 40}):
        assert {name: (directory / name).read_bytes() for name in drawn(directory)} == first


def test_an_optimizer_whose_runs_all_diverged_is_left_out_of_the_curves(write_study: WriteStudy) -> None:
    directory = write_study(diverged={"lion": 8})
    assert drawn(directory) == ALL[:2]
    # What is left of Lion's colour is its line in the legend.
    assert 0 < pixels_of(directory / ALL[0], VERMILLION) < 100
    assert pixels_of(directory / ALL[0], BLUE) > 400


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [({"tuned": False, "seeds": 3}, [ALL[0], ALL[2]]), ({"seeds": 1}, ALL[:2]), ({"seeds": 0}, ALL[1:2])],
)
def test_a_figure_without_data_is_not_drawn(
    write_study: WriteStudy, arguments: dict[str, Any], expected: list[str]
) -> None:
    assert drawn(write_study(**arguments)) == expected


def test_a_summary_without_its_run_records_is_refused(write_study: WriteStudy) -> None:
    directory = write_study(seeds=2)
    shutil.rmtree(directory / "runs" / "lion-s1-0123456789")
    with pytest.raises(DataError, match="no record of lion-s1-0123456789"):
        drawn(directory)
