"""Command line of image classification; conf/image_classification.yaml lists what to type."""

from experiments.harness.entry import main

if __name__ == "__main__":
    main("image_classification")
