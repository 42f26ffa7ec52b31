"""How a number is written for people, in whatever language. Pure."""

from __future__ import annotations


def plain(value: float, decimals: int) -> str:
    """Thousands apart, no more ``decimals`` than given and none that say nothing, never an exponent."""
    words = f"{value:,.{decimals}f}"
    words = words.rstrip("0").rstrip(".") if "." in words else words
    return "0" if words == "-0" else words.replace("-", "−")
