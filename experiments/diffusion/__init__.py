"""Diffusion: images generated from noise, conditioned on classes or text."""
