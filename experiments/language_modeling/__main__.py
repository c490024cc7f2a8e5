"""Command line of language modelling; conf/language_modeling.yaml lists what to type."""

from experiments.harness.entry import main
from experiments.language_modeling import config  # noqa: F401  # registers the schema

if __name__ == "__main__":
    main("language_modeling")
