"""What produced a run: git commit, digest of the sources, package versions, hardware. Read without importing torch."""

import hashlib
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# The packages whose version can change a result; two versions never meet in one study.
PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "accelerate",
    "timm",
    "transformers",
    "diffusers",
    "open_clip_torch",
)


@cache
def sources_digest(task: str) -> str:
    """16 hex digits over the files and package versions that decide what a run of ``task`` computes.

    ``experiments/study`` and ``experiments/report`` read finished runs only, so they are left out.
    """
    digest = hashlib.sha256(repr(sorted(package_versions().items())).encode())
    folders = ("lion", *(f"experiments/{name}" for name in ("data", "harness", "metrics", "pretrained", task)))
    files = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    for path in sorted(path for path in files if path.suffix in (".py", ".cpp")):
        digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def package_versions() -> dict[str, str]:
    """Installed versions of PACKAGES."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _first_line_with(path: str, key: str) -> str | None:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return None
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), None)


def _git(*arguments: str) -> str | None:
    result = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    return result.stdout.strip() if result.returncode == 0 else None


def environment(task: str) -> dict[str, Any]:
    """The content of environment.json. No host name, no user name and no path: it is made to be published."""
    memory_kib = (_first_line_with("/proc/meminfo", "MemTotal") or "0").split()[0]
    return {
        "git_sha": _git("rev-parse", "HEAD"),
        "git_dirty": bool(_git("status", "--porcelain", "--", "lion", "experiments", "conf")),
        "sources_digest": sources_digest(task),
        "packages": package_versions(),
        "python": platform.python_version(),
        "hardware": {
            "cpu": _first_line_with("/proc/cpuinfo", "model name") or platform.processor(),
            "cpu_count": os.cpu_count(),
            "memory_gib": round(int(memory_kib) / 2**20, 1),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }
