"""Diffusion runs end to end: what they report, what they share, what is rejected."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.diffusion.data import class_splits
from experiments.diffusion.feature_nets import FeatureNet
from experiments.diffusion.sample_metrics import GeneratedImages
from experiments.diffusion.sampler import start_noise
from experiments.harness.entry import execute
from experiments.harness.errors import ConfigError, DataError, SuiteError
from experiments.harness.run import locate
from tests.conftest import MakeConfig, built, executed, last_values, measured, rows, sums_of, values_of

DISTANCES = ("fd_efficientnet_lite0", "kid_efficientnet_lite0")
SHORT = ["train.steps=3", "train.evaluate_every=3", "train.sample_every=3"]
"""Three steps, and one evaluation with samples"""


@pytest.mark.parametrize("optimizer", ["lion", "adamw"])
def test_a_run_reports_every_metric(make_diffusion: MakeConfig, optimizer: str) -> None:
    cfg = make_diffusion(f"optimizer={optimizer}")
    value = execute(cfg)
    directory = locate(cfg).directory
    last = last_values(directory)
    assert value == last["val/loss"]
    assert math.isfinite(last["test/loss"])
    assert last["samples/num_samples"] == cfg.sampling.num_samples
    for distance in DISTANCES:
        assert all(math.isfinite(last[f"samples/{distance}{bound}"]) for bound in ("", "_floor", "_noise"))
    assert last["samples/fd_efficientnet_lite0_floor"] < last["samples/fd_efficientnet_lite0_noise"]
    with Image.open(directory / "samples.png") as sheet:
        assert sheet.size == (4 * (32 + 4), 3 * (32 + 4))  # four samples at two points of training, four real images
        bands = np.asarray(sheet).reshape(3, -1)
    assert bands.std(1).min() > 0
    assert len({band.tobytes() for band in bands}) == 3


def test_text_to_image_and_super_resolution_report_every_metric(make_text_to_image: MakeConfig) -> None:
    for experiment in ("smoke_text", "smoke_sr"):
        cfg = make_text_to_image(f"experiment=diffusion/{experiment}", *SHORT)
        last = last_values(executed(cfg))
        assert all(math.isfinite(last[f"samples/{distance}"]) for distance in DISTANCES)
        assert math.isfinite(last["test/loss"])


def test_search_trials_generate_no_samples(make_diffusion: MakeConfig) -> None:
    cfg = make_diffusion("test=false")
    assert not any(key.startswith("samples/") for row in rows(executed(cfg)) for key in row)
    assert not (locate(cfg).directory / "samples.png").exists()


def test_training_reduces_the_validation_loss(make_diffusion: MakeConfig) -> None:
    cfg = make_diffusion("optimizer=adamw", "test=false", "train.steps=60", "train.evaluate_every=30")
    losses = values_of(executed(cfg), "val/loss")
    assert losses[1] < losses[0] < 1
    assert losses[1] < 0.25


def test_all_optimizers_see_the_same_noise(make_diffusion: MakeConfig) -> None:
    first = []
    for optimizer in ("lion", "adamw"):
        cfg = make_diffusion(f"optimizer={optimizer}", "test=false", "train.log_every=1")
        first.append(next(row for row in rows(executed(cfg)) if "train/loss" in row))
    # the first loss and gradient come before the update
    assert first[0]["train/loss"] == first[1]["train/loss"]
    assert first[0]["train/grad_norm"] == first[1]["train/grad_norm"]


def test_a_generated_sample_depends_only_on_its_index(make_diffusion: MakeConfig) -> None:
    cfg = make_diffusion("sampling.sampler=ddpm")
    task = built(cfg)
    torch.manual_seed(0)
    model = task.model().eval()

    def samples(numbers: range) -> torch.Tensor:
        *_, last = task.denoised(model, numbers)
        return last

    with torch.no_grad():
        whole = samples(range(8))
        torch.manual_seed(1)  # earlier draws have no effect
        parts = torch.cat([samples(range(3)), samples(range(3, 8))])
    assert (whole.int() - parts.int()).abs().max() <= 1
    assert not torch.equal(whole[0], whole[1])
    cpu = torch.device("cpu")
    assert torch.equal(start_noise([3, 5], 16, cpu)[1], start_noise([5], 16, cpu)[0])


def test_distances_of_real_images_equal_the_reported_floor(
    make_diffusion: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = make_diffusion("sampling.batch_size=16")
    task = built(cfg)
    real = class_splits(locate(cfg).data.images, 40)["test"]
    monkeypatch.setattr(task, "denoised", lambda model, numbers: [real.pixels(np.array(numbers), 16)])
    metrics = measured(task, "samples", task.model())
    for distance in DISTANCES:
        assert metrics[f"samples/{distance}".partition("/")[2]] == pytest.approx(metrics[f"{distance}_floor"], rel=1e-6)


def test_flatness_is_measured_on_training_samples(make_diffusion: MakeConfig) -> None:
    cfg = make_diffusion(*SHORT, "flatness.draws=1", "flatness.std=0.1", "flatness.samples=20")
    assert "flatness/perturbed_loss" in rows(executed(cfg))[-1]


def test_reference_features_are_cached(make_diffusion: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def distances(*overrides: str) -> None:
        task = built(make_diffusion(*overrides))
        task.evaluators["samples"].sums(task.model(), 0, 1)

    monkeypatch.setattr(GeneratedImages, "sums", lambda *_: {})  # generated images are judged anew each time
    distances()
    monkeypatch.setattr(FeatureNet, "features", None)
    distances()
    with pytest.raises(TypeError):
        distances("data.num_reference=32")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sampling.num_samples=1", "sampling.batch_size=1"], r"sampling\.num_samples=1 must be a multiple of"),
        (["sampling.num_samples=48"], r"sampling\.num_samples=48, but test has 40 images"),
        (["sampling.sampler=euler"], r"sampling\.sampler must be ddpm or ddim"),
        (["sampling.steps=2000"], r"sampling\.steps=2000 must be from 1 to noise\.steps=1000"),
        (["sampling.shown=9"], r"sampling\.shown=9 must not exceed"),
        (["noise.condition_dropout=0"], r"not trained with noise\.condition_dropout=0"),
        (["noise.target=x0"], r"noise\.target must be epsilon or v_prediction, but it is 'x0'"),
        (["noise.timesteps=cosine"], r"noise\.timesteps must be uniform or importance"),
        (
            ["model.sample_size=32"],
            r"model\.sample_size=32 generates images of a different resolution .*data\.image_size=16",
        ),
        (["data.num_reference=81"], r"data\.num_reference=81, but fit has 80 images"),
        (["data.images.val_size=120"], r"data\.images\.val_size=120 must be above 0 and leave some"),
        (["noise.schedule=lineer"], "noise.schedule must be linear or squaredcos_cap_v2, but it is 'lineer'"),
        (["data.image_size=17", "model.sample_size=17"], "cannot take images of data.image_size=17"),
        (["model.num_class_embeds=10"], "model.num_class_embeds=10 .* at least 11: 10 classes, and one for no class"),
        (
            ["model.num_class_embeds=9", "sampling.guidance=1", "noise.condition_dropout=0"],
            "must be at least 10: 10 cl",
        ),
        (["data.images.num_classes=11"], r"1 of the num_classes=11 classes have no training sample, such as number 10"),
        (["data.num_val=0"], "data.num_val=0, but it must be at least 1"),
        (["data.num_reference=-1"], "data.num_reference=-1, but it must be at least 1"),
        (["data.images.num_classes=9"], "split train has labels from 0 to 9, but there are 9 classes"),
        (["study.primary_metric=samples/fid"], r"Inception weights are not at .*weights-inception-2015-12-05-6726825d"),
    ],
)
def test_invalid_settings_are_refused_before_training(
    make_diffusion: MakeConfig, overrides: list[str], sentence: str
) -> None:
    with pytest.raises(SuiteError, match=sentence):
        execute(make_diffusion(*overrides))


def test_without_inception_weights_fid_is_skipped_with_a_message(
    make_diffusion: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg = make_diffusion(*SHORT, "data.inception_sources=[/nowhere/inception.pth]")
    execute(cfg)
    assert (
        capsys.readouterr().out.count("FID is left out: its Inception weights are not at /nowhere/inception.pth.") == 1
    )
    last = rows(locate(cfg).directory)[-2]
    assert "samples/fid" not in last
    assert math.isfinite(last["samples/fd_efficientnet_lite0"])


def test_inception_weights_with_the_wrong_hash_are_refused(make_diffusion: MakeConfig, tmp_path: object) -> None:
    path = f"{tmp_path}/inception.pth"
    torch.save({"weight": torch.zeros(1)}, path)
    with pytest.raises(DataError, match=r"inception\.pth has the SHA-256 .* begins with 6726825d"):
        execute(make_diffusion(f"data.inception_sources=[{path}]"))


def test_more_processes_than_sampling_batches_are_refused(make_diffusion: MakeConfig) -> None:
    cfg = make_diffusion()
    task = built(cfg)
    with pytest.raises(ConfigError, match=r"makes 2 batches, too few for 3 processes"):
        sums_of(task, "samples", task.model(), processes=3)
