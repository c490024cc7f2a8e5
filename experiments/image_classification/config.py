"""The schema of conf/image_classification.yaml."""

from dataclasses import dataclass

from omegaconf import MISSING

from experiments.harness.config import Config, DataConfig, register


@dataclass
class ImageDataConfig(DataConfig):
    """A labelled image set, decoded to uint8 arrays of one size."""

    num_classes: int = MISSING
    image_size: int = MISSING
    channels: int = MISSING
    mean: list[float] = MISSING
    """of the training images, a channel, in units of 255"""
    std: list[float] = MISSING
    val_size: int = MISSING
    """training images held out for tuning and for the curves"""
    crop_padding: int = 4
    """pixels of padding before the random crop"""
    flip: bool = True
    """random horizontal flip"""


@dataclass
class ImageClassificationConfig(Config):
    """One run of image classification."""

    data: ImageDataConfig = MISSING
    label_smoothing: float = 0.0


register("image_classification", ImageClassificationConfig)
