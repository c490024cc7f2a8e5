"""Command line of LiT; conf/lit.yaml lists example commands."""

from experiments.harness.entry import main

if __name__ == "__main__":
    main("lit")
