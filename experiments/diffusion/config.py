"""The schema of conf/diffusion.yaml."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.harness.config import Config, DataConfig, register


@dataclass
class DiffusionDataConfig(DataConfig):
    """Images at one resolution, and what else has to be fetched."""

    access: str = "experiments.diffusion.sets.open_sets"
    places: list[dict[str, Any]] = field(default_factory=list)
    """none: each set below has its own"""
    images: dict[str, Any] = MISSING
    """the set of images with classes or captions, a config of the group ``data``; its ``access`` opens it"""
    split_seed: int | None = None
    """of images with classes: draws other training images to be held out; null: the set's own"""
    weights: dict[str, dict[str, Any]] = MISSING
    """weights of the network ``features``, and for texts of ``text`` if it has any: configs of the group ``data``"""
    image_size: int = MISSING
    """pixels of height and width; larger pictures are reduced to it and cropped to their centre"""
    flip: bool = True
    """random horizontal flip of training images"""
    num_val: int = MISSING
    """images that a validation loss is taken over; the set may hold out more"""
    num_test: int = MISSING
    """images that the test loss is taken over"""
    num_reference: int = MISSING
    """training images that generated ones are compared with"""
    low_resolution: int | None = None
    """pixels of the image that a super-resolution model enlarges to image_size; null: images from noise alone"""
    inception_places: list[str] = field(default_factory=list)
    """where the Inception weights of FID may lie; without them samples/fid and samples/kid are left out"""


@dataclass
class NoiseConfig:
    """How images become noise, and what the network learns to say of them."""

    schedule: str = MISSING
    """linear or squaredcos_cap_v2, as ``diffusers`` names them"""
    steps: int = 1000
    """timesteps; the schedule goes from image to noise in them, however many they are"""
    target: str = "epsilon"
    """epsilon (the noise) or v_prediction"""
    timesteps: str = "uniform"
    """uniform, or importance: more often where the loss is large, weighted so that its mean is the same"""
    condition_dropout: float = 0.0
    """share of training images whose class or text is hidden, which guidance needs"""


@dataclass
class SamplingConfig:
    """How images are generated for the split "samples"."""

    sampler: str = MISSING
    """ddpm or ddim"""
    steps: int = MISSING
    """divides noise.steps"""
    guidance: float = 1.0
    """weight of the conditional prediction against the unconditional one; 1: no guidance"""
    num_samples: int = MISSING
    batch_size: int = MISSING
    """images generated together: the unit that processes share, that a kill can lose, and the subsets of KID"""
    shown: int = 8
    """of the first batch, in the run's samples.png"""


@dataclass
class TextConfig:
    """How captions condition images; without an encoder, classes do."""

    encoder: Any = None
    """the ``_target_`` of a text encoder, tokens int64 [N, T] to float [N, T, D], which is never trained"""
    tokenizer: str = ""
    """a function of experiments/pretrained/tokenizers.py or t5.py, by its full name"""
    context_length: int = 0
    """tokens of a caption; longer ones are cut"""
    clip_model: str | None = None
    """the model of samples/clip_score, as ``open_clip`` names it; null: there is no such metric"""
    clip_weights: str = ""
    """its weights, as ``open_clip`` names them"""


@dataclass
class DiffusionConfig(Config):
    """One run of diffusion."""

    data: DiffusionDataConfig = MISSING
    text: TextConfig = field(default_factory=TextConfig)
    noise: NoiseConfig = field(default_factory=NoiseConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)


register("diffusion", DiffusionConfig)
