"""Command line of diffusion; conf/diffusion.yaml lists example commands."""

from experiments.harness.entry import main

if __name__ == "__main__":
    main("diffusion")
