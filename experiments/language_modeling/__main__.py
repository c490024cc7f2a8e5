"""Command line of language modelling; conf/language_modeling.yaml lists example commands."""

from experiments.harness.entry import main

if __name__ == "__main__":
    main("language_modeling")
