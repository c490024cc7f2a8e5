"""Diffusion: images generated from noise, by class or by text."""
