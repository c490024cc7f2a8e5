"""Runs without a network: with LION_OFFLINE=1, everything comes from the cache, or one sentence says what is missing.

The Hugging Face libraries read the variables set here when they are imported, which does not happen before a run opens
its data.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.harness.errors import DataError
from experiments.harness.source_code import ROOT

NO_NETWORK = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "offline"}
HUB = "huggingface"
"""The cache folder for files of the Hugging Face libraries. A token stays where `hf auth login` put it."""
FETCHES_ALL = "LION_FETCHES_ALL"
"""Environment variable set by ``make fetch``: whatever is opened is cached in full, for runs without a network."""
FETCHED_GROUPS = ("data", "model", "text")
"""The config groups that decide what is fetched."""
_ABSENT = {"NotFetched", "OfflineModeIsEnabled", "LocalEntryNotFoundError"}
"""Exception names; one of them is in the chain if a library does not have something and must not download it."""


class NotFetched(DataError):
    """Something that a run without a network needs is not in the cache; the message names it."""


def is_offline() -> bool:
    """Whether LION_OFFLINE forbids the network."""
    return os.environ.get("LION_OFFLINE", "").lower() not in ("", "0", "false", "no")


def cache_of(plain: Mapping[str, Any]) -> Path:
    """The folder in which a run of this resolved config keeps its data."""
    return ROOT / Path(plain["run"]["cache_dir"]).expanduser()


def keep_hub_files_in(cache_dir: Path) -> None:
    """Make the Hugging Face libraries use the cache for weights, tokenizers and tables too: one folder for all."""
    hub = cache_dir.expanduser().absolute() / HUB
    os.environ.update({"HF_HUB_CACHE": str(hub / "hub"), "HF_DATASETS_CACHE": str(hub / "datasets")})


def hub_source(repo: str, revision: str, files: Any) -> dict[str, str]:
    """The arguments with which ``datasets.load_dataset`` opens a repository of tables.

    Normally they are its name and revision. For a run without a network, and while fetching for one, they are the
    folder of its files in the cache instead, because without a network the library cannot find a table again that was
    opened through data_files. ``files`` is the library's data_files: a pattern, several, or a mapping by split.
    """
    if not (is_offline() or os.environ.get(FETCHES_ALL)):
        return {"path": repo, "revision": revision}
    from huggingface_hub import snapshot_download

    listed = files.values() if isinstance(files, Mapping) else [files]
    patterns = [one for each in listed for one in ([each] if isinstance(each, str) else each or [])]
    wanted = [*patterns, "*.md", "*.yaml"] if patterns else None
    folder = snapshot_download(
        repo, repo_type="dataset", revision=revision, allow_patterns=wanted, local_files_only=is_offline()
    )
    return {"path": folder}


def is_absent(error: BaseException | None) -> bool:
    """Whether a library reports that it does not have something and must not download it."""
    while error is not None:
        if type(error).__name__ in _ABSENT or "offline mode is enabled" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def without_network(plain: Mapping[str, Any]) -> Iterator[None]:
    """Under LION_OFFLINE, keep all libraries off the network. If something is missing, a DataError gives the command
    that fetches it. ``plain`` is the run's resolved config.
    """
    if not is_offline():
        yield
        return
    cache_dir = cache_of(plain)
    os.environ.update(NO_NETWORK)
    keep_hub_files_in(cache_dir)
    try:
        yield
    except Exception as error:  # the Hugging Face libraries raise many kinds of errors
        if not is_absent(error):
            raise
        what = str(error) if isinstance(error, NotFetched) else f"a model or tokenizer ({str(error).splitlines()[0]})"
        raise DataError(
            f"LION_OFFLINE=1, but {what} is not in the cache {cache_dir}: on a machine with a network, "
            f"`{fetching(plain)}` fetches it. If it was packed there (`make pack`), `make unpack PACK=<file>` brings "
            "it here."
        ) from error


def fetching(plain: Mapping[str, Any]) -> str:
    """The command that fetches what a run of this config needs."""
    from hydra.core.hydra_config import HydraConfig

    cell = plain["experiment"].partition("/")[2]
    words = [f"make fetch TASK={plain['task']} SCALE={plain['scale']} CELL={cell}"]
    given = HydraConfig.get().overrides.task if HydraConfig.initialized() else []
    changed = [one for one in given if one.lstrip("+~").partition("=")[0].split(".")[0] in FETCHED_GROUPS]
    if changed := [one for one in changed if not one.startswith("data.split_seed=")]:
        words.append(f"ARGS='{' '.join(changed)}'")
    return " ".join(words)
