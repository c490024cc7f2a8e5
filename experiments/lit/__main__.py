"""Command line of LiT; conf/lit.yaml lists what to type."""

from experiments.harness.entry import main
from experiments.lit import config  # noqa: F401  # registers the schema

if __name__ == "__main__":
    main("lit")
