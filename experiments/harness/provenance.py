"""What produced a run: git commit, digest of the sources, package versions, hardware; determined without torch."""

import os
import platform
import subprocess
from typing import Any

from experiments.harness.arithmetic import cpu_field, file_field
from experiments.harness.source_code import ROOT, package_versions

INSTRUCTION_SETS = ("sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512*", "amx*", "asimd", "sve*")
"""Flags in /proc/cpuinfo that affect which kernels are chosen; * matches any suffix."""


def _git(*arguments: str) -> str | None:
    try:
        result = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=False)
    except OSError:  # no git here
        return None
    return result.stdout.strip() if result.returncode == 0 else None


def instruction_sets() -> list[str]:
    """The INSTRUCTION_SETS that the processor supports."""
    flags = (cpu_field("flags") or cpu_field("Features") or "").split()
    exact = {name for name in INSTRUCTION_SETS if not name.endswith("*")}
    beginnings = tuple(name[:-1] for name in INSTRUCTION_SETS if name.endswith("*"))
    return sorted(flag for flag in {*flags} if flag in exact or flag.startswith(beginnings))


def environment(digest: str) -> dict[str, Any]:
    """The content of environment.json. It is published, so it has no host name, user name or path."""
    memory_kib = (file_field("/proc/meminfo", "MemTotal") or "0").split()[0]
    changed = _git("status", "--porcelain", "--", "lion", "experiments", "conf")
    return {
        "git_sha": _git("rev-parse", "HEAD"),
        "git_dirty": None if changed is None else bool(changed),
        "sources_digest": digest,
        "packages": package_versions(),
        "python": platform.python_version(),
        "hardware": {
            "cpu": cpu_field("model name") or platform.processor(),
            "cpu_family": cpu_field("cpu family"),
            "cpu_model": cpu_field("model"),
            "cpu_stepping": cpu_field("stepping"),
            "instruction_sets": instruction_sets(),
            "cpu_count": os.cpu_count(),
            "memory_gib": round(int(memory_kib) / 2**20, 1),
            "system": f"{platform.system()} {platform.machine()}",
        },
    }
