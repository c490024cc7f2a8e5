"""Command line of image classification; conf/image_classification.yaml lists example commands."""

from experiments.harness.entry import main

if __name__ == "__main__":
    main("image_classification")
