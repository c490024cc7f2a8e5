"""Open the sets that one config consists of, from the first source that has them, and name them by one fingerprint."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.utils import get_method

from experiments.harness.errors import DataError, first_line
from experiments.harness.offline import NotFetched, is_absent, is_offline
from experiments.harness.places import describe
from experiments.harness.prepared_data import prepare

Opened = TypeVar("Opened")
SOURCE_KEYS = {"hub": {"repo", "revision"}, "local": {"path"}}
"""The required keys of a source that is read in place, by its kind"""


def open_set(data: Mapping[str, Any], cache_dir: Path) -> Any:
    """Open the set of a ``data`` config with the function that its key ``access`` names, by default
    experiments.harness.prepared_data.prepare.
    """
    access = get_method(data["access"]) if "access" in data else prepare
    return access(data, cache_dir)


def joint_fingerprint(parts: Mapping[str, str | None]) -> str:
    """SHA-256 over the fingerprints of named parts, None for a part that is absent; their order does not matter."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_fingerprint(data: Mapping[str, Any], found: str) -> None:
    """Raise DataError if the config group ``data`` declares a different fingerprint."""
    if data.get("fingerprint") not in (None, found):
        raise DataError(
            f"data={data['name']} has the fingerprint {found} here, but its config declares {data['fingerprint']}; "
            "a different version, or a different order of rows, needs its own config."
        )


def first_of(name: str, places: Sequence[Mapping[str, Any]], attempt: Callable[[Mapping[str, Any]], Opened]) -> Opened:
    """What ``attempt`` gives for the first of the sources ``places`` (of kind hub or local) that has the data set
    ``name``. If every source fails, one DataError gives the reason for each.
    """
    reasons, absent = [], False
    for place in places:
        try:
            return attempt(place)
        except Exception as error:  # the library, its file systems and its HTTP client each raise their own
            absent |= is_offline() and is_absent(error)
            cause = error.__cause__ if error.__cause__ and not isinstance(error, DataError) else error
            kind = "" if isinstance(error, DataError) else f"{type(cause).__name__}: "
            reasons.append(f"  {describe(place)}: {kind}{first_line(cause)}{_gate_advice(place, str(error))}")
    if absent:
        raise NotFetched(f"data={name}")
    local = [place["path"] for place in places if place["kind"] == "local"]
    way_out = f"\nPut its files at {' or '.join(local)}." if local else ""
    opening = f"data={name} cannot be opened, because each of its sources failed."
    raise DataError("\n".join([opening, *reasons]) + way_out)


def _gate_advice(place: Mapping[str, Any], message: str) -> str:
    """What to do if the hub refused access, according to ``message``; otherwise empty."""
    if place["kind"] == "hub" and any(word in message.lower() for word in ("gated", "401", "403", "authenticated")):
        return (
            f" (accept the terms of {place['repo']} once, on its page on the hub, with the account whose token is set "
            "by `hf auth login` or HF_TOKEN)"
        )
    return ""
