"""Command line of fine-tuning; conf/finetuning.yaml lists example commands."""

from experiments.harness.entry import main

if __name__ == "__main__":
    main("finetuning")
