"""Command line of fine-tuning; conf/finetuning.yaml lists what to type."""

from experiments.finetuning import config  # noqa: F401  # registers the schema
from experiments.harness.entry import main

if __name__ == "__main__":
    main("finetuning")
