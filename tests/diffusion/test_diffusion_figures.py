"""The sheets of generated images, the strip from noise to image, and what is published of a run."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.diffusion.denoising_strip import write_strip
from experiments.diffusion.sample_sheet import write_row
from experiments.harness.entry import execute, locate
from experiments.harness.errors import RunError
from experiments.harness.record import read_metrics
from experiments.report.samples import main, sample_distances, sample_sheets, sampled_steps
from tests.conftest import MakeConfig


def test_rows_of_a_sheet_are_written_one_by_one_and_again(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 2, 4, 4, 3)).astype(np.uint8)
    for row in (0, 2, 1, 2):  # a resumed run writes a row again
        write_row(tmp_path / "samples.png", images[row], row, rows=3)
    with Image.open(tmp_path / "samples.png") as image:
        sheet = np.asarray(image)
    assert np.array_equal(sheet, images.transpose(0, 2, 1, 3, 4).reshape(12, 8, 3))
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]


def test_runs_stand_side_by_side_and_the_strip_ends_with_the_samples(
    make_diffusion: MakeConfig, tmp_path: Path
) -> None:
    runs = []
    for optimizer in ("lion", "adamw"):
        cfg = make_diffusion(f"optimizer={optimizer}")
        execute(cfg)
        runs.append(locate(cfg)[2])
    rows = read_metrics(runs[0])
    assert sampled_steps(rows) == [3, 6]
    figure = sample_sheets({run.name: run / "samples.png" for run in runs}, [3, 6])
    assert [axes.get_title() for axes in figure.axes] == [run.name for run in runs]
    curves = sample_distances({"Lion": [rows]}, {"samples/fd_efficientnet_lite0": "distance"}, {"Lion": "#000000"})
    assert len(curves.axes[0].lines) == 3  # with real images and noise
    main([*(f"run={run}" for run in runs), f"out={tmp_path}/both.png"])
    assert (tmp_path / "both.png").stat().st_size > 1000

    path = write_strip(runs[1], make_diffusion("optimizer=adamw"))
    with Image.open(path) as strip, Image.open(runs[1] / "samples.png") as sheet:
        assert strip.size == (4 * 16, 4 * 16)  # four steps, four samples
        last = np.asarray(strip)[:, -16:].reshape(4, 16, 16, 3)
        samples = np.asarray(sheet)[-16:].reshape(16, 4, 16, 3).transpose(1, 0, 2, 3)
    assert np.abs(last.astype(int) - samples.astype(int)).max() <= 1


def test_a_strip_of_another_model_is_refused(make_diffusion: MakeConfig) -> None:
    cfg = make_diffusion("test=false")
    execute(cfg)
    with pytest.raises(RunError, match="has another model than experiment=diffusion/smoke"):
        write_strip(locate(cfg)[2], make_diffusion("model.layers_per_block=2"))


def test_a_run_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"has no samples\.png"):
        main([f"run={tmp_path}", f"out={tmp_path}/out.png"])
