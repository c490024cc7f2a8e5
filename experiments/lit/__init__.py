"""LiT: a text tower trained to match a locked image tower."""
