"""The schema of conf/image_classification.yaml."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.harness.config import Config, DataConfig, register


@dataclass
class ImageDataConfig(DataConfig):
    """A labelled image set: decoded to uint8 arrays of one size, or stored as files of any size (access: see
    experiments/image_classification/stored_sets.py).
    """

    num_classes: int = MISSING
    image_size: int = MISSING
    channels: int = MISSING
    mean: list[float] = MISSING
    """of the training images, a channel, in units of 255"""
    std: list[float] = MISSING
    val_size: int = MISSING
    """training images held out for tuning and for the curves"""
    split_seed: int | None = None
    """draws other training images to be held out; null: the set's own"""
    crop_padding: int = 4
    """pixels of padding before the random crop; without augmentation.crop_area"""
    flip: bool = True
    """random horizontal flip"""
    train_images: int | None = None
    """rows of the training split, val_size among them; null: whatever the place has"""
    v2_places: list[dict[str, Any]] = field(default_factory=list)
    """a second test set, reported as test/v2_top1"""
    real_places: list[str] = field(default_factory=list)
    """files with the reassessed labels of the test set, reported as test/real_top1"""
    initial_run: str | None = None
    """the data set of the run whose final weights training starts from; null: from scratch"""
    initial_places: list[dict[str, Any]] = field(default_factory=list)
    """where that run is: ``path``, a pattern of folders, and its ``model_name``"""


@dataclass
class AugmentationConfig:
    """What training images go through besides flips; see experiments/image_classification/augmentation.py."""

    crop_area: list[float] | None = None
    """least and greatest share of the picture's area in a random resized crop; null: a padded crop of
    image_size, which a picture of another size is brought to before"""
    randaugment_ops: int = 0
    """operations of RandAugment on one picture"""
    randaugment_magnitude: int = 0
    mixup_alpha: float = 0.0
    """both parameters of the Beta distribution of mixup's share"""


@dataclass
class ImageClassificationConfig(Config):
    """One run of image classification."""

    data: ImageDataConfig = MISSING
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    loss: str = "softmax"
    """softmax (cross-entropy) or sigmoid (binary cross-entropy, summed over the classes)"""
    label_smoothing: float = 0.0
    """of the softmax loss"""
    head_bias: float = 0.0
    """initial bias of the classifier; with the sigmoid loss about -ln(classes)"""


register("image_classification", ImageClassificationConfig)
