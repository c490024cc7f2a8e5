"""Random streams identified by their purpose, never by how many numbers were drawn before."""

import hashlib


def derive_seed(*name: int | str) -> int:
    """A seed in [0, 2**63) for the stream called ``name``, e.g. ``derive_seed(seed, step, micro_batch)``."""
    digest = hashlib.blake2b(repr(name).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
