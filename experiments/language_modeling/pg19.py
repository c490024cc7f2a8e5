"""PG-19: Project Gutenberg books from before 1919, from the hub's tables or the original text files."""

from pathlib import Path

from experiments.language_modeling.documents import PUBLISHED_SPLITS, Corpus
from experiments.language_modeling.tables import table_sources
from experiments.language_modeling.text_files import split_folders


def books(root: str) -> Corpus:
    """The published splits: train/*.txt, validation/*.txt and test/*.txt, or else data/train-*.parquet and so on."""
    if (Path(root) / "train").is_dir():
        return split_folders(Path(root))
    return table_sources(root, {split: f"data/{name}-*.parquet" for split, name in PUBLISHED_SPLITS.items()})
