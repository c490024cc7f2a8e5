"""Command line of image classification; conf/image_classification.yaml lists what to type."""

from experiments.harness.entry import main
from experiments.image_classification import config  # noqa: F401  # registers the schema

if __name__ == "__main__":
    main("image_classification")
