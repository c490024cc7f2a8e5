"""The grids of generated images, the strip from noise to image, and the published files of a run."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.text import Annotation
from PIL import Image

from experiments.diffusion.denoising_strip import write_strip
from experiments.diffusion.sample_sheet import write_row
from experiments.harness.entry import execute
from experiments.harness.errors import RunError
from experiments.harness.record import read_metrics
from experiments.harness.run import locate
from experiments.report.samples import main, sample_distances, sample_sheets, sampled_steps
from tests.conftest import MakeConfig, executed


def test_sample_sheet_rows_can_be_written_in_any_order_and_rewritten(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 2, 20, 20, 3)).astype(np.uint8)
    for row in (0, 2, 1, 2):  # a resumed run writes a row again
        write_row(tmp_path / "samples.png", images[row], row, rows=3, real=images[3])
        cells = cells_of(tmp_path / "samples.png", 40)
        assert np.array_equal(cells[3], enlarged(images[3])), "the real images are there from the first row on"
    assert np.array_equal(cells, enlarged(images))
    assert [path.name for path in tmp_path.iterdir()] == ["samples.png"]


def test_large_images_are_not_enlarged(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 48, 48, 3)).astype(np.uint8)
    write_row(tmp_path / "samples.png", images[0], 0, rows=1, real=images[0])
    assert np.array_equal(cells_of(tmp_path / "samples.png", 48)[0], images[0])


def enlarged(images: np.ndarray) -> np.ndarray:
    """Enlarge each pixel to a square of two by two."""
    return np.kron(images, np.ones((2, 2, 1), np.uint8))


def cells_of(path: Path, size: int) -> np.ndarray:
    """The images of a sheet, uint8 ``[rows, columns, size, size, 3]``, after checking that the gaps are white."""
    with Image.open(path) as image:
        sheet = np.asarray(image)
    step = size + 4
    cells = sheet.reshape(sheet.shape[0] // step, step, sheet.shape[1] // step, step, 3).swapaxes(1, 2)
    assert (cells[:, :, size:] == 255).all()
    assert (cells[:, :, :, size:] == 255).all()
    return cells[:, :, :size, :size]


def test_sheets_distances_and_denoising_strips_show_the_generated_samples(
    make_diffusion: MakeConfig, tmp_path: Path
) -> None:
    runs = []
    for optimizer in ("lion", "adamw"):
        cfg = make_diffusion(f"optimizer={optimizer}")
        runs.append(executed(cfg))
    rows = read_metrics(runs[0])
    assert sampled_steps(rows) == [3, 6]
    figure = sample_sheets({run.name: run / "samples.png" for run in runs}, [3, 6])
    assert [axes.get_title() for axes in figure.axes] == [run.name for run in runs]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["step 3", "step 6", "real"]
    name = "samples/fd_efficientnet_lite0"
    last = next(row for row in rows if row["step"] == 6 and name in row)
    for told in (rows, [last]):  # generated twice, and once
        (axes,) = sample_distances({"Lion": [told]}, {name: "distance"}, {"Lion": "#000000"}).axes
        labels = {text.get_text(): text.xy[1] for text in axes.texts if isinstance(text, Annotation)}
        assert labels == {"real images": last[f"{name}_floor"], "noise": last[f"{name}_noise"]}
        assert last[name] in [y for line in axes.lines for y in np.ravel(line.get_ydata())]
    main([*(f"run={run}" for run in runs), f"out={tmp_path}/both.png"])
    assert (tmp_path / "both.png").stat().st_size > 1000

    path = write_strip(runs[1], make_diffusion("optimizer=adamw"))
    with Image.open(path) as strip:
        assert strip.size == (4 * 16, 4 * 16)  # four steps, four samples
        ends = np.asarray(strip)[:, -16:].reshape(4, 16, 16, 3)
    samples = cells_of(runs[1] / "samples.png", 32)[-2, :, ::2, ::2]
    assert np.abs(ends.astype(int) - samples.astype(int)).max() <= 1


def test_a_denoising_strip_of_a_different_model_is_refused(make_diffusion: MakeConfig) -> None:
    cfg = make_diffusion("test=false")
    execute(cfg)
    with pytest.raises(RunError, match="has a different model than experiment=diffusion/smoke"):
        write_strip(locate(cfg).directory, make_diffusion("model.layers_per_block=2"))


def test_a_run_without_a_sample_sheet_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no samples\.png"):
        main([f"run={tmp_path}", f"out={tmp_path}/out.png"])
