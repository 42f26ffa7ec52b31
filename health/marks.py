"""Marks of days as bits, 32 days to a word: what rows of marks are asked live, in a few operations a word. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from health.arrays import Bools, Ints

WORD = 32
NO_DAY = 10**6
"""Further back than any day."""

Words = npt.NDArray[np.uint32]


def packed(active: Bools) -> Words:
    """(R, D') marks as (R, W) words: day d is bit d % 32 of word d // 32."""
    size = -(-active.shape[1] // WORD) * WORD // 8
    octets = np.zeros((len(active), size), dtype=np.uint8)
    octets[:, : -(-active.shape[1] // 8)] = np.packbits(active, axis=1, bitorder="little")
    words: Words = octets.view("<u4")
    return words


def within(words: Words, first: int, last: int) -> Words:
    """Only the days from ``first`` to ``last``, both included."""
    bits = (1 << max(last + 1, 0)) - (1 << max(min(first, last + 1), 0))
    every = (1 << words.shape[1] * WORD) - 1
    mask: Words = np.frombuffer((bits & every).to_bytes(words.shape[1] * WORD // 8, "little"), dtype="<u4")
    return words & mask


def number(words: Words) -> Ints:
    """How many days are marked. (R,)"""
    days: Ints = np.bitwise_count(words).sum(axis=1, dtype=np.int64)
    return days


def last_of(words: Words) -> Ints:
    """The place of the last marked day, far in the past for none. (R,)"""
    if not words.shape[1]:
        return np.full(len(words), -NO_DAY)
    top, begin = words[:, 0].copy(), np.zeros(len(words), dtype=np.int64)
    for number in range(1, words.shape[1]):
        marked = words[:, number] > 0
        np.copyto(top, words[:, number], where=marked)
        np.copyto(begin, number * WORD, where=marked)
    # A word fits a float exactly, whose exponent is the number of its highest bit.
    return np.where(top > 0, begin + np.frexp(top.astype(np.float64))[1] - 1, -NO_DAY)
