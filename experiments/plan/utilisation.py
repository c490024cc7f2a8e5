"""What share of an H100's peak a model's training reaches: an assumption that turns operations into hours.

Only small models have been timed here (docs/gpu.md); the other shares are published ones, or an analogy that says so.
"""

from dataclasses import dataclass

from torch import nn

PEAK = 989.4e12
"""Operations per second of an NVIDIA H100 SXM in bfloat16 without sparsity (NVIDIA's data sheet), as of an H200."""
SMALL = 50_000_000
"""Parameters below which a transformer counts as small: launching its kernels takes longer than running them. The
largest timed here has 21 million, the smallest with a published share 760 million."""


@dataclass(frozen=True)
class Utilisation:
    """A share of PEAK, and where it comes from."""

    share: float
    source: str

    @property
    def flops(self) -> float:
        """Operations per second."""
        return self.share * PEAK


FAMILIES = {
    "transformer language model": Utilisation(
        0.40, "published: 35 to 43 % for 0.76 and 1.3 B on H100s, up to 2,048 tokens (llm-foundry's benchmarks)"
    ),
    "vision transformer": Utilisation(
        0.40, "as for language models; none published for an H100 is known (55 % on TPU v4, Dehghani et al. 2023)"
    ),
    "small transformer": Utilisation(
        0.065, "measured: language_modeling/gpu, eight runs at 36 to 42 steps per second each on an H200"
    ),
    "convolutional network": Utilisation(0.108, "measured: ResNet-18, 16 ms per step of 512 on an H100"),
    "U-Net": Utilisation(0.041, "measured: diffusion/gpu_ddpm, 117 ms per step of 128 on an H100"),
    "frozen tower": Utilisation(0.40, "as for vision transformers; not measured"),
}
"""By family of models, each while it trains"""


def family_of(model: nn.Module, convolutions: float) -> str:
    """The key of FAMILIES for a model with this share of its operations in convolutions."""
    if "UNet" in type(model).__name__:
        return "U-Net"
    if convolutions > 0.5:
        return "convolutional network"
    if not all(parameter.requires_grad for parameter in model.parameters()):
        return "frozen tower"
    if sum(parameter.numel() for parameter in model.parameters()) < SMALL:
        return "small transformer"
    takes_tokens = any(isinstance(module, nn.Embedding) for module in model.modules())
    return "transformer language model" if takes_tokens else "vision transformer"
