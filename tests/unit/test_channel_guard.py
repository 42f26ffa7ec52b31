"""Where a message may not go, whatever its address looks like."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest

from alerts.channels import guard
from alerts.channels.guard import GuardedTransport, RefusedTargetError, check_address, check_url

REFUSED = [
    "0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.31.255.255", "192.0.0.192", "192.168.1.1",
    "198.18.0.1", "224.0.0.1", "255.255.255.255", "::", "::1", "::127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::", "fc00::1", "fd12::1", "fe80::1%eth0", "fec0::1", "ff02::1", "2001::1", "2001:db8::1",
]  # fmt: skip
PUBLIC = ["8.8.8.8", "100.63.255.255", "100.128.0.1", "172.32.0.1", "192.0.1.1", "2606:4700::1111", "2a00:1450::1"]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(RefusedTargetError, match="not public"):
        check_address(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_allowed(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.com/", "file:///etc/passwd", "https://", "https://user@example.com/", "https://u:p@example.com/",
        "https://example.com:8443/", "http://example.com:22/", "//example.com", "",
    ],
)  # fmt: skip
def test_an_odd_url_is_refused(url: str) -> None:
    with pytest.raises(RefusedTargetError):
        check_url(url, allow_private=False)


@pytest.mark.parametrize(
    "url", ["https://hooks.example/x", "http://hooks.example/x", "https://例え.example/", "https://a.example:443/"]
)
def test_an_ordinary_url_is_allowed(url: str) -> None:
    assert check_url(url, allow_private=False).host


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "localhost",
        "localhost.",
        "[::1]",
        "[::ffff:127.0.0.1]",
    ],
)
async def test_loopback_in_any_spelling_is_refused_by_what_it_resolves_to(host: str) -> None:
    async with httpx2.AsyncClient(transport=GuardedTransport(allow_private=False)) as client:
        with pytest.raises((RefusedTargetError, guard.UnknownNameError, httpx2.InvalidURL)):
            await client.post(f"http://{host}/")


def answering(*answers: Sequence[str]) -> Any:
    """A name server that gives these address lists, one per question."""
    waiting = list(answers)
    asked: list[str] = []

    async def getaddrinfo(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        asked.append(host)
        addresses = waiting.pop(0)
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        return [(family[":" in one], socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    getaddrinfo.asked = asked  # type: ignore[attr-defined]
    return getaddrinfo


class Recorder(httpx2.AsyncBaseTransport):
    """Stands where the connection would be made."""

    def __init__(self) -> None:
        self.requests: list[httpx2.Request] = []

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        return httpx2.Response(200)


async def guarded_post(monkeypatch: pytest.MonkeyPatch, url: str, *answers: Sequence[str]) -> tuple[Recorder, Any]:
    name_server = answering(*answers)
    monkeypatch.setattr(type(asyncio.get_running_loop()), "getaddrinfo", name_server, raising=False)
    transport = GuardedTransport(allow_private=False)
    await transport.aclose()
    recorder = Recorder()
    monkeypatch.setattr(transport, "_inner", recorder)
    async with httpx2.AsyncClient(transport=transport, trust_env=False) as client:
        await client.post(url)
    return recorder, name_server


async def test_one_private_address_among_public_ones_is_enough_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedTargetError):
        await guarded_post(monkeypatch, "https://mixed.example/", ["8.8.8.8", "10.0.0.1"])


async def test_the_checked_address_is_the_one_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second answer, which would lead inside, is never asked for; name and certificate stay those of the target."""
    recorder, name_server = await guarded_post(
        monkeypatch, "https://rebind.example/hook", ["2606:4700::1111", "93.184.216.34"], ["127.0.0.1"]
    )
    (request,) = recorder.requests
    assert name_server.asked == ["rebind.example"]
    assert request.url.host == "93.184.216.34"
    assert request.headers["host"] == "rebind.example"
    assert request.extensions["sni_hostname"] == "rebind.example"


async def test_the_certificate_is_checked_against_the_name() -> None:
    """The real connection: TLS to a server without a trusted certificate fails instead of falling back."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server = await asyncio.start_server(lambda r, w: w.close(), "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server, httpx2.AsyncClient(transport=GuardedTransport(allow_private=True)) as client:
        with pytest.raises(httpx2.ConnectError):
            await client.post(f"https://localhost:{port}/")
