"""Command line of diffusion; conf/diffusion.yaml lists what to type."""

from experiments.diffusion import config  # noqa: F401  # registers the schema
from experiments.harness.entry import main

if __name__ == "__main__":
    main("diffusion")
