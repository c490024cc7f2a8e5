"""Small generated data for every task."""

import pytest

from tests.conftest import digits as digits
from tests.diffusion.conftest import SOURCE
from tests.diffusion.conftest import clouds as clouds
from tests.finetuning.conftest import sentences as sentences
from tests.language_modeling.conftest import books as books
from tests.lit.conftest import shapes as shapes


@pytest.fixture(scope="session")
def data(
    digits: list[str],
    shapes: list[str],
    books: list[str],
    sentences: list[str],
    clouds: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, list[str]]:
    """By task, the overrides that replace real data with generated data."""
    folder = tmp_path_factory.mktemp("labelled")
    labelled = [f"data.images.sources={SOURCE.format(folder, 'decode_labelled')}", "data.images.val_size=40"]
    return {
        "image_classification": digits,
        "lit": shapes,
        "language_modeling": books,
        "finetuning": sentences,
        "diffusion": [*clouds, *labelled],
    }
