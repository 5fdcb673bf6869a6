"""From a stream's url to what may be opened: a camera's address, or a file of the media folder."""

import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, quote, unquote, urlsplit

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
Resolve = Callable[[str, int], Iterable[str]]

DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322}
NAT64 = IPv6Network("64:ff9b::/96")
COMPATIBLE = IPv6Network("::/96")
REFUSED_UNLESS_ALLOWED = tuple(  # by gateways, too
    ip_network(network)
    for network in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, clouds' metadata services among it
        "100.100.100.200/32",  # metadata, Alibaba
        "192.0.0.192/32",  # metadata, Oracle
        "224.0.0.0/3",
        "::/96",  # ::1 among it
        "fe80::/10",
        "fd00:ec2::254/128",  # metadata, AWS
        "ff00::/8",
    )
)


class Forbidden(Exception):
    """The rules of this installation don't let a camera point there; the message says why."""


class NotFound(Exception):
    """There is no such file, or no such name."""


@dataclass(frozen=True)
class Rules:
    """Denied beats allowed beats what is refused by default; everything else may be reached."""

    media_path: Path
    allowed: Sequence[Network] = ()
    denied: Sequence[Network] = ()

    def permit(self, address: Address) -> bool:
        if _within(address, self.denied):
            return False
        return _within(address, self.allowed) or not _within(address, REFUSED_UNLESS_ALLOWED)


@dataclass(frozen=True)
class FileSource:
    """A clip, played at its own speed."""

    path: Path
    loops: bool


@dataclass(frozen=True)
class RtspSource:
    """A camera, at addresses that the rules permit."""

    addresses: Sequence[str]
    host: str
    port: int
    is_secured: bool  # by TLS
    _parts: SplitResult = field(repr=False)
    _userinfo: str | None = field(repr=False)

    @property
    def has_user(self) -> bool:
        return self._userinfo is not None

    def through(self, port: int) -> str:
        """The url as FFmpeg must have it to reach the camera by a port of this machine; with the
        password in it: it lives in this process only."""
        place = f"127.0.0.1:{port}"
        netloc = place if self._userinfo is None else f"{self._userinfo}@{place}"
        return self._parts._replace(scheme="rtsp", netloc=netloc, fragment="").geturl()


def addresses(host: str, port: int) -> list[str]:
    """What the system's resolver says. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(info[4][0]) for info in found]


def locate(
    url: str,
    username: str | None,
    password: str | None,
    rules: Rules,
    resolve: Resolve = addresses,
) -> FileSource | RtspSource:
    """Raises Forbidden or NotFound."""
    parts = split(url)
    if parts.scheme == "file":
        return _file(parts, rules.media_path)
    if parts.scheme in DEFAULT_PORTS and parts.hostname:
        port = parts.port or DEFAULT_PORTS[parts.scheme]
        return RtspSource(
            _checked(parts.hostname, port, rules, resolve),
            parts.hostname,
            port,
            parts.scheme == "rtsps",
            parts,
            userinfo(username, password),
        )
    raise Forbidden("Only rtsp:// and rtsps:// addresses and file:NAME are opened")


def split(url: str) -> SplitResult:
    """Raises Forbidden where this is no url at all."""
    try:
        parts = urlsplit(url)
        _ = parts.port, parts.hostname
    except ValueError:
        raise Forbidden("The address is no valid url") from None
    return parts


def userinfo(username: str | None, password: str | None) -> str | None:
    """FFmpeg takes credentials only in the url, percent-encoded."""
    if username is None:
        return None
    name = quote(username, safe="")
    return name if password is None else f"{name}:{quote(password, safe='')}"


def _file(parts: SplitResult, media_path: Path) -> FileSource:
    """Never outside the folder, whatever `..` and links say."""
    if parts.netloc or parts.path.startswith("/") or not parts.path:
        raise Forbidden("A file is named as file:NAME, inside the media folder")
    folder = media_path.resolve()
    try:
        path = (folder / unquote(parts.path)).resolve()
        is_there = path.is_file()
    except (ValueError, OSError, RuntimeError):  # a NUL, too long, a loop of links
        raise NotFound("There is no such file in the media folder") from None
    if not path.is_relative_to(folder):
        raise Forbidden("The file lies outside the media folder")
    if not is_there:
        raise NotFound("There is no such file in the media folder")
    return FileSource(path, loops=parse_qs(parts.query).get("loop") == ["1"])


def _checked(host: str, port: int, rules: Rules, resolve: Resolve) -> tuple[str, ...]:
    """The name's addresses, asked for once. Each must be permitted: one that is not says that
    somebody means us to look inside."""
    try:
        found = [ip_address(address.partition("%")[0]) for address in resolve(host, port)]
    except (OSError, UnicodeError):
        raise NotFound("The camera's name can't be resolved") from None
    for address in found:
        if not all(rules.permit(place) for place in _places(address)):
            raise Forbidden(f"Cameras may not be at {address} in this installation")
    return tuple(map(str, found))


def _places(address: Address) -> list[Address]:
    """An IPv6 address, and the IPv4 one that it leads to: mapped, compatible, by 6to4 or by NAT64
    (RFC 4291, 3056, 6052)."""
    if isinstance(address, IPv4Address):
        return [address]
    is_last = address in NAT64 or (address in COMPATIBLE and int(address) > 1)  # not :: and ::1
    last = IPv4Address(int(address) & 0xFFFFFFFF) if is_last else None
    within = (address.ipv4_mapped, address.sixtofour, last)
    return [address, *(place for place in within if place is not None)]


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
