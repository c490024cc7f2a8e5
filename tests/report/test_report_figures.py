"""The figures of a synthetic study: their content, and that equal data give identical bytes."""

import re
import statistics
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.image
import numpy as np
import pytest
from matplotlib import font_manager, get_data_path
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from experiments.report.figures import (
    draw,
    ease_of_tuning,
    learning_curves,
    optimizer_colors,
    paired_differences,
    position_ticks,
    settings_scatter,
)
from experiments.report.rebuild import read_summary
from experiments.report.style import MOST_BYTES, save
from experiments.study.replicates import Replicate, read_replicates
from experiments.study.trials import value_at
from tests.report.conftest import WriteStudy

ALL = ["paired-differences-lion-adamw.svg", "ease-of-tuning.svg", "settings.png", "learning-curves.svg"]
COLORS = optimizer_colors(("lion", "adamw"))


def read(directory: Path) -> tuple[dict[str, Any], list[Replicate]]:
    return read_summary(directory), read_replicates(directory)


def drawn(directory: Path) -> list[str]:
    return draw(directory, *read(directory))


def xy(line: Line2D) -> tuple[list[float], list[float]]:
    x, y = np.asarray(line.get_xydata(), dtype=float).T.tolist()
    return x, y


def labelled(axes: Axes, label: str) -> Line2D:
    return next(line for line in axes.get_lines() if line.get_label() == label)


def colours_of(path: Path) -> set[str]:
    """``#d55e00`` of an SVG's text, or of at least 100 pixels."""
    if path.suffix == ".svg":
        return set(re.findall(r"#[0-9a-f]{6}", path.read_text()))
    pixels = np.round(matplotlib.image.imread(path)[:, :, :3] * 255).astype(np.int64) @ [2**16, 2**8, 1]
    colours, counts = np.unique(pixels, return_counts=True)
    return {f"#{colour:06x}" for colour in colours[counts >= 100]}


@pytest.mark.parametrize("weight", ["normal", "bold"])
def test_figures_use_matplotlibs_own_fonts_whatever_is_installed(weight: str) -> None:
    assert font_manager.findfont(font_manager.FontProperties(weight=weight)).startswith(get_data_path())


@pytest.mark.parametrize("numbers", [range(2), range(11)])
def test_figures_are_small_files_and_use_the_optimizers_colours(write_study: WriteStudy, numbers: range) -> None:
    directory = write_study(numbers=numbers, declared=11, stages=(8, 7, 15))
    assert drawn(directory) == ALL
    for name in ALL:
        assert (directory / name).stat().st_size < 150_000
        assert "#d55e00" in colours_of(directory / name)
    for name in (ALL[1], ALL[3]):
        assert "#0072b2" in colours_of(directory / name)
    with Image.open(directory / "settings.png") as settings:
        assert settings.width == 2 * 4 * 2.6 * 110, "twice of what a page shows"


def test_figure_titles_name_the_task_and_the_better_direction(write_study: WriteStudy) -> None:
    summary, replicates = read(write_study("lit"))
    figures = [
        paired_differences(summary, summary["comparisons"][1], COLORS),
        ease_of_tuning(summary, COLORS),
        settings_scatter(summary, replicates, COLORS),
        learning_curves(summary, replicates, COLORS),
    ]
    titles = [f"{figure.get_suptitle()} {' '.join(axes.get_title() for axes in figure.axes)}" for figure in figures]
    assert all("LiT, cifar10" in title for title in titles)
    assert "Lion - AdamW: test top-1 accuracy, % (higher is better)" in titles[0]
    assert all("loss (lower is better)" in title for title in titles[2:])
    summary["declared"] = 0
    assert "(no verdict: mini)" in ease_of_tuning(summary, COLORS).axes[0].get_title()


def test_learning_curves_are_means_over_completed_confirm_runs(write_study: WriteStudy) -> None:
    summary, replicates = read(write_study(numbers=range(4), diverged=[(1, "lion")]))
    validation, _ = learning_curves(summary, replicates, COLORS).axes
    for line, name, numbers in zip(validation.get_lines(), ("lion", "adamw"), ((0, 2, 3), (0, 1, 2, 3)), strict=True):
        runs = [run for number in numbers for run in replicates[number].of(name, "confirm")]
        final = [[row["val/loss"] for row in run.rows if "val/loss" in row][-1] for run in runs]
        steps, values = xy(line)
        assert steps == [40, 80, 120, 160, 200]
        assert values[-1] == pytest.approx(statistics.fmean(final))
        assert line.get_label() == f"{ {'lion': 'Lion', 'adamw': 'AdamW'}[name] } ({2 * len(numbers)} of 8 runs)"


def test_the_difference_figure_shows_interval_margin_and_reproductions(write_study: WriteStudy) -> None:
    summary, _ = read(write_study(numbers=range(7), diverged=[(1, "lion")]))
    row = summary["comparisons"][0]
    (axes,) = paired_differences(summary, row, COLORS).axes
    lion, adamw = row["per_replicate"]["lion"], row["per_replicate"]["adamw"]
    assert xy(labelled(axes, "replicate"))[1] == [lion[n] - adamw[n] for n in (0, 2, 3, 4, 5)]
    assert xy(labelled(axes, "reproduction"))[1] == [row["reproductions"][0]["difference"]]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "2", "3", "4", "5", "mean", "6"]
    dashed = [xy(line)[1][0] for line in axes.get_lines() if line.get_linestyle() == "--" and len(xy(line)[0]) == 2]
    assert dashed == row["prediction95"]
    (margin,) = (band for band in axes.collections if str(band.get_label()).startswith("tie"))
    low, high = margin.get_paths()[0].get_extents().intervalx
    assert (low, high) == (5 - 0.4, 5 + 0.4), "behind the mean only, which a tie is about"
    assert xy(labelled(axes, "90 % interval of the mean"))[1] == row["difference"]["ci90"]
    assert axes.get_ylabel() == "above 0: AdamW is better", "of a loss"
    assert axes.get_title().endswith("in 5 of 6 replicates: a run diverged in the others")
    row["better"] = "higher"
    assert paired_differences(summary, row, COLORS).axes[0].get_ylabel() == "above 0: Lion is better"


def test_ease_of_tuning_is_the_median_over_replicates_once_all_have_a_value(write_study: WriteStudy) -> None:
    summary, _ = read(write_study())
    (axes,) = ease_of_tuning(summary, COLORS).axes
    for name, label in (("lion", "Lion"), ("adamw", "AdamW")):
        found = np.array(summary["optimizers"][name]["best_so_far"], dtype=float)
        whole = np.flatnonzero(np.isfinite(found).all(axis=0))
        trials, values = xy(labelled(axes, label))
        assert trials == (whole + 1).tolist()
        assert values == pytest.approx(np.median(found[:, whole], axis=0))
    stages = [xy(line)[0][0] for line in axes.get_lines() if line.get_linestyle() == ":" and len(xy(line)[0]) == 2]
    assert stages == [4.5, 7.5]


@pytest.mark.parametrize(
    ("kind", "low", "high", "zero", "labels"),
    [
        ("rate", 2e-5, 0.02, 0.0, ["0.0001", "0.001", "0.01"]),
        ("rate", 1e-4, 0.1, 0.0, ["0.0001", "0.001", "0.01", "0.1"]),
        ("memory", 1.0, 500.0, 0.0, ["1", "10", "100"]),
        ("decay", 0.01, 10.0, 0.125, ["0", "0.1", "1", "10"]),
        ("log", 1e-12, 1e-4, 0.0, ["1e-12", "1e-10", "1e-08", "1e-06", "0.0001"]),
        ("log", 0.3, 3.0, 0.0, ["0.5", "1", "2"]),
        ("log", 0.6, 0.9, 0.0, ["0.6", "0.9"]),
    ],
)
def test_ticks_of_a_searched_dimension_are_round_and_correctly_placed(
    kind: str, low: float, high: float, zero: float, labels: list[str]
) -> None:
    space = {"name": "x", "argument": "x", "kind": kind, "low": low, "high": high, "zero": zero}
    ticks = position_ticks(space)
    assert list(ticks.values()) == labels
    assert all(-1e-9 < position < 1 + 1e-9 for position in ticks)
    for position, label in ticks.items():
        assert value_at(space, position) == pytest.approx(float(label), rel=1e-9)


def test_a_dense_figure_is_saved_within_the_size_limit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    figure = Figure(figsize=(10.4, 10.8), dpi=220)
    for axes in figure.subplots(4, 4).flat:
        axes.plot(*rng.uniform(size=(2, 330)), ".", color=str(rng.choice(["C0", "C1"])), alpha=0.5, markersize=4)
    save(figure, tmp_path / "dots.png")
    assert (tmp_path / "dots.png").stat().st_size < MOST_BYTES


@pytest.mark.parametrize("better", ["lower", "higher"])
def test_diverged_trials_are_drawn_beyond_the_worst_value(write_study: WriteStudy, better: str) -> None:
    summary, replicates = read(write_study(stages=(30, 5)))
    summary["validation_better"] = better
    axes = settings_scatter(summary, replicates, COLORS).axes[0]
    diverged = next(line for line in axes.get_lines() if line.get_marker() == "x")
    (trials,) = (line for line in axes.get_lines() if str(line.get_label()).startswith("trial"))
    lost = [run for each in replicates for run in each.of("lion", "search") if run.diverged]
    assert len(xy(diverged)[0]) == len(lost) > 0
    worse = min(xy(diverged)[1]) > max(xy(trials)[1])
    assert worse if better == "lower" else max(xy(diverged)[1]) < min(xy(trials)[1])
    low, high = axes.get_ylim()
    assert low <= min(xy(diverged)[1]) <= high


def test_winners_are_marked_at_the_best_trials(write_study: WriteStudy) -> None:
    summary, replicates = read(write_study())
    figure = settings_scatter(summary, replicates, COLORS)
    assert len(figure.axes) == 2 * 4
    stars = labelled(figure.axes[1], "winner of a replicate")
    best = [min((run.last("val/loss") or 9, run.unit[1]) for run in each.of("lion", "search")) for each in replicates]
    assert xy(stars) == ([position for _, position in best], [value for value, _ in best])


def test_a_bad_winner_is_not_drawn_in_the_diverged_band(write_study: WriteStudy) -> None:
    summary, replicates = read(write_study(stages=(8, 7), best={"lion": (0.99, 0.5, 0.6, 0.5), "adamw": (0.5,) * 4}))
    summary["optimizers"]["lion"]["best_so_far"][2][-1] = 9.0
    for axes in settings_scatter(summary, replicates, COLORS).axes[:4]:
        (band,) = (patch for patch in axes.patches if patch.get_label() == "diverged")
        assert 9.0 in xy(labelled(axes, "winner of a replicate"))[1]
        assert band.get_extents().transformed(axes.transData.inverted()).y0 > 9.0


def test_figures_are_reproducible_under_any_matplotlib_style(write_study: WriteStudy) -> None:
    directory = write_study(numbers=range(2), optimizers=("lion", "adamw", "signum"), samples=True)
    first = {name: (directory / name).read_bytes() for name in drawn(directory)}
    assert {"paired-differences-signum-adamw.svg", "samples.png", "sample-distances.svg"} <= first.keys()
    with matplotlib.rc_context({"font.size": 20, "axes.grid": False, "savefig.dpi": 40}):
        assert {name: (directory / name).read_bytes() for name in drawn(directory)} == first


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"numbers": range(2), "stages": ()}, [ALL[0], ALL[3]]),
        ({"numbers": [0]}, ALL[1:]),
        ({"diverged": [(n, "lion") for n in range(6)]}, ALL[1:]),
    ],
)
def test_a_figure_without_data_is_not_drawn(
    write_study: WriteStudy, arguments: dict[str, Any], expected: list[str]
) -> None:
    assert drawn(write_study(**arguments)) == expected


def test_generated_samples_are_shown_only_if_every_optimizer_has_a_sheet(write_study: WriteStudy) -> None:
    directory = write_study("diffusion", numbers=range(2), samples=True)
    assert drawn(directory)[-2:] == ["samples.png", "sample-distances.svg"]
    (directory / "samples" / "lion.png").unlink()
    assert "samples.png" not in drawn(directory)
