"""Diffusion: images generated from noise, conditioned on classes or text."""

import logging

# diffusers imports bitsandbytes where that is installed, which warns of a kernel that nothing here uses.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
