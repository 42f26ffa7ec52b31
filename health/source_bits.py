"""Which sources an account has ever sent from, as bits of one number: what its silence depends on. Pure.

A source has one of 62 bits by a hash of its name: no table of numbers, and ``or`` merges them whatever the order. Two
sources that share a bit are taken for one, so that a gap of either holds the accounts of both: late beats false.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final
from zlib import crc32

BITS: Final = 62
ANY: Final = -1
"""All bits: an account of which it is not known where its events came from."""


@lru_cache(4096)
def source_bit(name: str) -> int:
    """The number with the bit of the source set."""
    return 1 << crc32(name.encode()) % BITS
