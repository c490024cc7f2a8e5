"""Runs without a network: with LION_OFFLINE=1 all comes from the cache, or one sentence says what is missing.

The libraries of Hugging Face read these variables when they are imported, which nothing does before a run's data are
opened.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.harness.errors import DataError

NO_NETWORK = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "WANDB_MODE": "offline"}
HUB = "huggingface"
"""Folder of the cache for what the libraries of Hugging Face keep. A token stays where `hf auth login` has put it."""
FETCHES_ALL = "LION_FETCHES_ALL"
"""Variable of ``make fetch``: what is opened is kept whole, for runs without a network."""
FETCHED_GROUPS = ("data", "model", "text")
"""What of a config decides what is fetched."""
_ABSENT = {"NotFetched", "OfflineModeIsEnabled", "LocalEntryNotFoundError"}
"""Exceptions, by name, of which one is in the chain where a library has not got something and may not fetch it."""


class NotFetched(DataError):
    """What the cache of a run without a network lacks; the message names it."""


def is_offline() -> bool:
    """Whether LION_OFFLINE forbids the network."""
    return os.environ.get("LION_OFFLINE", "").lower() not in ("", "0", "false", "no")


def keep_hub_files_in(cache_dir: Path) -> None:
    """Have the libraries of Hugging Face keep weights, tokenizers and tables in the cache too: one folder has all."""
    hub = cache_dir.expanduser().absolute() / HUB
    os.environ.update({"HF_HUB_CACHE": str(hub / "hub"), "HF_DATASETS_CACHE": str(hub / "datasets")})


def hub_source(repo: str, revision: str, files: Any = None) -> dict[str, str]:
    """What ``datasets.load_dataset`` opens a repository of tables by: its address; for a run without a network, and
    where all is fetched for one, the folder of its files in the cache, since without a network the library finds no
    table again that was opened by data_files. ``files`` are its own data_files: a pattern, several, or by split.
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
    """Whether a library says that it has not got something and may not fetch it."""
    while error is not None:
        if type(error).__name__ in _ABSENT or "offline mode is enabled" in str(error).lower():
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def without_network(plain: Mapping[str, Any], cache_dir: Path) -> Iterator[None]:
    """Under LION_OFFLINE, forbid the network to all libraries; what is missing is a DataError of one sentence, with
    the command that fetches it. ``plain`` is the run's resolved config.
    """
    if not is_offline():
        yield
        return
    os.environ.update(NO_NETWORK)
    keep_hub_files_in(cache_dir)
    try:
        yield
    except Exception as error:  # the libraries of Hugging Face raise errors of many kinds
        if not is_absent(error):
            raise
        what = str(error) if isinstance(error, NotFetched) else f"a model or tokenizer ({str(error).splitlines()[0]})"
        raise DataError(
            f"LION_OFFLINE=1, and the cache {cache_dir} lacks {what}: where there is a network, `{fetching(plain)}` "
            "fetches it."
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
