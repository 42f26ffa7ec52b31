"""Where a message may not go: addresses inside our own network, which a hostile or careless webhook URL could name.

The name is resolved once, *every* address is checked, and the connection goes to the checked address, so that a second
answer of the name server cannot differ. Host and SNI keep the name. Our own table of ranges: the standard library's
``is_private`` says no to shared (100.64/10), NAT64, 6to4 and IPv4-compatible addresses.
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import IPv4Address, IPv4Network, IPv6Network, ip_address

import httpx2

REFUSED_V4 = tuple(
    IPv4Network(block)
    for block in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # shared, carrier NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local: metadata services of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
GLOBAL_V6 = IPv6Network("2000::/3")
"""All else is refused: loopback, unique-, link- and site-local, multicast, IPv4-mapped and -compatible, NAT64."""
REFUSED_V6 = tuple(
    IPv6Network(block)
    for block in (
        "2001::/23",  # protocol assignments, Teredo
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4: carries an IPv4 address
        "3fff::/20",  # documentation
    )
)
ALLOWED_PORTS = frozenset({80, 443})
REMEDY = "set KIZASHI_ALLOW_PRIVATE_TARGETS=true if that is intended"


class RefusedTargetError(httpx2.TransportError):
    """The target may not be reached from here. The text names no address."""


class UnknownNameError(httpx2.ConnectError):
    """The target's name has no address. The text does not tell the name."""


def check_address(address: str) -> None:
    """Raises RefusedTargetError unless the IP address is a public one."""
    ip = ip_address(address.partition("%")[0])
    if isinstance(ip, IPv4Address):
        refused = any(ip in block for block in REFUSED_V4)
    else:
        refused = ip not in GLOBAL_V6 or any(ip in block for block in REFUSED_V6)
    if refused:
        raise RefusedTargetError(f"the target resolves to an address that is not public; {REMEDY}")


def check_url(url: str, *, allow_private: bool) -> httpx2.URL:
    """The parsed address of a target. Raises RefusedTargetError for what is no plain http(s) address."""
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL:
        raise RefusedTargetError("the target is not a valid URL") from None
    if parsed.scheme not in {"https", "http"} or not parsed.host:
        raise RefusedTargetError("the target is not an http(s) URL")
    if parsed.userinfo:
        raise RefusedTargetError("the target's URL must not carry a user name or password")
    port = parsed.port or {"https": 443, "http": 80}[parsed.scheme]
    if not allow_private and port not in ALLOWED_PORTS:
        raise RefusedTargetError(f"the target's port is neither 80 nor 443; {REMEDY}")
    return parsed


class GuardedTransport(httpx2.AsyncBaseTransport):
    """Resolves, checks, then connects to the checked address. No connection is kept: a pool keyed by address would hand
    one name's TLS connection to another name at the same address."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._inner = httpx2.AsyncHTTPTransport(
            trust_env=False, limits=httpx2.Limits(max_connections=100, max_keepalive_connections=0)
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        url = check_url(str(request.url), allow_private=self._allow_private)
        port = url.port or {"https": 443, "http": 80}[url.scheme]
        addresses = await self._resolve(url.raw_host.decode("ascii").strip("[]"), port)
        if not self._allow_private:
            for address in addresses:
                check_address(address)
        request.extensions = {**request.extensions, "sni_hostname": url.raw_host.decode("ascii")}
        request.url = url.copy_with(host=addresses[0])
        return await self._inner.handle_async_request(request)

    async def _resolve(self, host: str, port: int) -> list[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise UnknownNameError("the target's name does not resolve") from None
        # IPv4 first: many hosts have an IPv6 address and no IPv6 route, and we try only one.
        ordered = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)
        return [str(entry[4][0]) for entry in ordered]

    async def aclose(self) -> None:
        await self._inner.aclose()
