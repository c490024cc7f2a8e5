"""Keep the tests' tables out of the cache of the ``datasets`` library."""

from pathlib import Path

import datasets  # type: ignore[import-untyped]
import pytest


@pytest.fixture(autouse=True)
def no_library_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "library cache")
    datasets.disable_progress_bars()
