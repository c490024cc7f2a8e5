"""The metrics that image classification reports, and the schema of conf/image_classification.yaml."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.data.on_device import ImageRunConfig
from experiments.harness.config import Config, DataConfig, register
from experiments.harness.metric import CALIBRATED_LOSS, CALIBRATION_ERROR, percent

METRICS = {
    "calibrated_loss": CALIBRATED_LOSS,
    "calibration_error": CALIBRATION_ERROR,
    "top1": percent("top-1 accuracy"),
    "top5": percent("top-5 accuracy"),
    "real_top1": percent("ReaL accuracy", splits=("test",)),
    "v2_top1": percent("ImageNetV2 top-1 accuracy", splits=("test",)),
}


@dataclass
class ImageDataConfig(DataConfig):
    """A labelled image set: decoded to uint8 arrays of one size, or stored as files of any size (see ``access`` and
    experiments/image_classification/data.py).
    """

    num_classes: int = MISSING
    image_size: int = MISSING
    channels: int = MISSING
    mean: list[float] = MISSING
    """of the training images, per channel, in units of 255"""
    std: list[float] = MISSING
    val_size: int = MISSING
    """training images held out for tuning and for the curves"""
    split_seed: int | None = None
    """redraws which training images are held out; null: the set's own choice"""
    crop_padding: int = 4
    """pixels of padding before the random crop; only without augmentation.crop_area"""
    flip: bool = True
    """random horizontal flip"""
    train_images: int | None = None
    """rows of the training split, including val_size; null: whatever the source has"""
    v2_sources: list[dict[str, Any]] = field(default_factory=list)
    """sources of a second test set, reported as test/v2_top1"""
    real_sources: list[str] = field(default_factory=list)
    """files with the reassessed labels of the test set, reported as test/real_top1"""
    initial_run: str | None = None
    """the data set of the run whose final weights training starts from; null: from scratch"""
    initial_sources: list[dict[str, Any]] = field(default_factory=list)
    """where that run is: ``path``, a folder pattern, and its ``model_name``"""


@dataclass
class AugmentationConfig:
    """Augmentation of training images besides flips; see experiments/image_classification/augmentation.py."""

    crop_area: list[float] | None = None
    """smallest and largest share of the image's area in a random resized crop; null: a padded crop of image_size, after
    resizing images of other sizes to it"""
    randaugment_ops: int = 0
    """RandAugment operations per image"""
    randaugment_magnitude: int = 0
    mixup_alpha: float = 0.0
    """both parameters of the Beta distribution of mixup's mixing weight"""


@dataclass
class ImageClassificationConfig(Config):
    """One run of image classification."""

    data: ImageDataConfig = MISSING
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: str = "softmax"
    """softmax (cross-entropy) or sigmoid (binary cross-entropy, summed over the classes)"""
    label_smoothing: float = 0.0
    """only for the softmax loss"""
    head_bias: float = 0.0
    """initial bias of the classifier; about -ln(classes) for the sigmoid loss"""
    run: ImageRunConfig = field(default_factory=ImageRunConfig)


register("image_classification", ImageClassificationConfig)
