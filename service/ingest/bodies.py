"""A request's body: read within bounds of size and time, inflated within bounds, and unwrapped from forms.

What a body is, its first bytes say: clients label theirs wrongly, or not at all. Only raw deflate has no sign of its
own and is believed on its label.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import io
import re
import zlib
from collections.abc import Iterator
from typing import Final
from urllib.parse import parse_qs

import msgspec
import zstandard
from starlette.types import Receive

from consumers.bad_events import bad
from service.errors import Problem
from service.ingest.limits import Load
from service.middleware import BODY_PAUSE_SECONDS, BODY_SECONDS, too_slow

GZIP: Final = b"\x1f\x8b"
ZSTD: Final = b"\x28\xb5\x2f\xfd"
PIECE: Final = 64 * 1024
ZSTD_WINDOW: Final = 8 * 1024 * 1024
KNOWN_LABELS: Final = frozenset({"", "identity", "gzip", "x-gzip", "deflate", "zlib", "zstd"})
FORM_FIELDS: Final = 20
OVERLOAD_RETRY_SECONDS: Final = 2

_FORM: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{0,31}=")
_BASE64: Final = re.compile(rb"[A-Za-z0-9+/_=\s-]{8,}\Z")
_JSON_STARTS: Final = (b"{", b"[", b'"')


class ClientGoneError(Exception):
    """The client went away before its body was complete: nobody is there to be answered."""


class Held:
    """What one request holds of the door's bytes; gives it back through `Load.leave`."""

    __slots__ = ("bytes", "load")

    def __init__(self, load: Load) -> None:
        self.load = load
        self.bytes = 0

    def more(self, size: int) -> None:
        if not self.load.hold(size):
            raise overloaded()
        self.bytes += size


def overloaded() -> Problem:
    headers = {"Retry-After": str(OVERLOAD_RETRY_SECONDS)}
    return Problem(503, "overloaded", "too much at once: try again shortly", headers=headers)


def too_large(most: int, *, inflated: bool = False) -> Problem:
    what = "the body inflates to" if inflated else "the body has"
    return Problem(
        413,
        "body-too-large",
        f"{what} more than {most} bytes: split it into several requests",
        headers={"Connection": "close"},
    )


async def receive_all(
    receive: Receive,
    declared: bytes | None,
    *,
    most: int,
    held: Held,
    seconds: float = BODY_SECONDS,
    pause_seconds: float = BODY_PAUSE_SECONDS,
) -> bytes:
    """The body as sent. Raises Problem (413, 408, 503) and ClientGoneError."""
    if declared is not None and declared.isdigit() and (len(declared) > 18 or int(declared) > most):
        raise too_large(most)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    pieces: list[bytes] = []
    taken, more = 0, True
    while more:
        try:
            async with asyncio.timeout_at(min(deadline, loop.time() + pause_seconds)):
                message = await receive()
        except TimeoutError:
            raise too_slow() from None
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece: bytes = message.get("body", b"")
        taken += len(piece)
        if taken > most:
            raise too_large(most)
        held.more(len(piece))
        pieces.append(piece)
        more = message.get("more_body", False)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def inflate(raw: bytes, label: str, *, most: int, held: Held) -> bytes:
    """`raw` without its compression, if it has one. Raises Problem (413 as soon as there is more than `most`, 415 for
    encodings that are not taken, 503) and BadEvent for what is broken."""
    if raw.startswith(GZIP):
        return _collect(_inflated_gzip(raw, most), most, held, "gzip")
    if raw.startswith(ZSTD):
        return _collect(_inflated_zstd(raw), most, held, "zstd")
    if _is_zlib(raw):
        return _collect(_inflated_zlib(raw, zlib.MAX_WBITS, most), most, held, "zlib")
    if label == "deflate" and raw.lstrip()[:1] not in _JSON_STARTS:
        return _collect(_inflated_zlib(raw, -zlib.MAX_WBITS, most), most, held, "deflate")
    if label not in KNOWN_LABELS:
        raise Problem(415, "unsupported-encoding", "send the body as it is, or as gzip, deflate or zstd")
    return raw


def _is_zlib(raw: bytes) -> bool:
    # 32 KiB window, no preset dictionary, a header that divides by 31: JSON and forms begin otherwise.
    return raw[:1] == b"\x78" and raw[1:2] in {b"\x01", b"\x5e", b"\x9c", b"\xda"}


def _collect(pieces: Iterator[bytes], most: int, held: Held, name: str) -> bytes:
    out = bytearray()
    try:
        for piece in pieces:
            if len(out) + len(piece) > most:
                raise too_large(most, inflated=True)
            held.more(len(piece))
            out += piece
    except (zlib.error, zstandard.ZstdError, EOFError):
        remedy = "send it whole, or uncompressed"
        raise bad("", f"the body begins like {name} and cannot be inflated", remedy, "malformed") from None
    return bytes(out)


def _inflated_zlib(raw: bytes, bits: int, most: int) -> Iterator[bytes]:
    inflater, left = zlib.decompressobj(bits), raw
    while not inflater.eof:
        piece = inflater.decompress(left, min(PIECE, most + 1))
        left = inflater.unconsumed_tail
        if not piece and not left and not inflater.eof:
            raise EOFError
        yield piece


def _inflated_gzip(raw: bytes, most: int) -> Iterator[bytes]:
    """Every member: a gzip file may be several, one behind the other."""
    left = raw
    while left.startswith(GZIP):
        inflater = zlib.decompressobj(zlib.MAX_WBITS | 16)
        while not inflater.eof:
            piece = inflater.decompress(left, min(PIECE, most + 1))
            left = inflater.unconsumed_tail
            if not piece and not left and not inflater.eof:
                raise EOFError
            yield piece
        left = inflater.unused_data


def _inflated_zstd(raw: bytes) -> Iterator[bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    if zstandard.get_frame_parameters(raw).window_size > ZSTD_WINDOW:
        raise zstandard.ZstdError
    with decompressor.stream_reader(io.BytesIO(raw), read_across_frames=True) as reader:
        while piece := reader.read(PIECE):
            yield piece


def unwrap(body: bytes) -> bytes:
    """The JSON in what old and browser clients send: a form field, base64, or both; anything else as it is.

    PostHog: `data=`. Amplitude: `api_key=…&event=…` and `client=…&e=…`. The result is no larger than the body.
    Raises BadEvent.
    """
    start = body[:64].lstrip()
    if start[:1] in _JSON_STARTS or start.startswith(b"\xef\xbb\xbf"):
        return body
    if _FORM.match(start):
        return _from_form(body)
    if _BASE64.match(body):
        return _from_base64(body)
    return body


def _from_form(body: bytes) -> bytes:
    try:
        fields = parse_qs(body.decode(), strict_parsing=False, max_num_fields=FORM_FIELDS, errors="strict")
    except ValueError:  # too many fields, no UTF-8
        raise bad("", "the form cannot be read", "send the events as JSON", "malformed") from None
    found = {name: values[-1] for name, values in fields.items()}
    if "data" in found:
        data = found["data"].encode()
        # In a form, an unescaped plus sign is a blank: base64 has none of its own.
        return data if data.lstrip()[:1] in _JSON_STARTS else _from_base64(data.replace(b" ", b"+"))
    events = found.get("event") or found.get("e")
    key = found.get("api_key") or found.get("client")
    if events is None or key is None:
        missing = "the form has neither `data` nor `api_key` and `event`"
        raise bad("data", missing, "send the events as JSON", "malformed")
    listed = events if events.lstrip().startswith("[") else f"[{events}]"
    return b'{"api_key":' + msgspec.json.encode(key) + b',"events":' + listed.encode() + b"}"


def _from_base64(data: bytes) -> bytes:
    text = b"".join(data.split()).replace(b"-", b"+").replace(b"_", b"/").rstrip(b"=")
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise bad("data", "is neither JSON nor base64 of it", "send the events as JSON", "malformed") from None
