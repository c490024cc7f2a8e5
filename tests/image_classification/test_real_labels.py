"""ReaL labels: matched by the number in the file name, scored like the authors' code."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments.harness.errors import DataError
from experiments.image_classification.real_labels import read_real_labels, real_sums


@pytest.fixture
def real_json(tmp_path: Path) -> Path:
    path = tmp_path / "real.json"
    path.write_text(json.dumps([[3], [], [1, 2, 0], [2]]))
    return path


def test_real_labels_are_matched_by_the_number_in_the_file_name(real_json: Path) -> None:
    names = [
        f"ILSVRC2012_val_{number:08d}{rest}.JPEG" for number, rest in [(3, ""), (1, "_n01440764"), (2, ""), (3, "")]
    ]
    found = read_real_labels(real_json, names)
    np.testing.assert_array_equal(found, [[1, 2, 0], [3, -1, -1], [-1, -1, -1], [1, 2, 0]])
    assert found.dtype == np.int64


def test_real_accuracy_accepts_any_label_and_skips_unlabelled_images(real_json: Path) -> None:
    entries = json.loads(real_json.read_text())
    labels = read_real_labels(real_json, [f"ILSVRC2012_val_{number:08d}.JPEG" for number in (1, 2, 3, 4)])
    rng = np.random.default_rng(0)
    for _ in range(20):
        logits = rng.normal(size=(4, 5))
        sums = real_sums(torch.from_numpy(logits), torch.from_numpy(labels))
        right = [prediction in entries[image] for image, prediction in enumerate(logits.argmax(1)) if entries[image]]
        assert (sums["real_top1"].item(), sums["real_count"].item()) == (sum(right), 3)


@pytest.mark.parametrize(
    "name", ["", "n01440764_1.JPEG", "ILSVRC2012_val_00000000.JPEG", "ILSVRC2012_val_00000005.JPEG"]
)
def test_an_image_without_a_real_labels_entry_is_refused_by_name(real_json: Path, name: str) -> None:
    with pytest.raises(DataError, match=f"The test image '{name}' has no entry .* from 00000001 to 00000004"):
        read_real_labels(real_json, ["ILSVRC2012_val_00000001.JPEG", name])


def test_a_real_labels_file_without_any_label_is_refused(real_json: Path) -> None:
    with pytest.raises(DataError, match="has no label for any test image"):
        read_real_labels(real_json, ["ILSVRC2012_val_00000002.JPEG"])


@pytest.mark.parametrize(
    ("content", "message"),
    [("[[1], 2]", "entry 2 is 2, but"), ('[["a"]]', "entry 1 is"), ("[[-1]]", "entry 1 is"), ("{", "not valid JSON")],
)
def test_a_malformed_real_labels_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "real.json").write_text(content)
    with pytest.raises(DataError, match=message):
        read_real_labels(tmp_path / "real.json", ["ILSVRC2012_val_00000001.JPEG"])
