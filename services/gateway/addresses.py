"""Where a camera is: what a person typed -> an address without the password in it.

Accepted: `rtsp://`, `rtsps://` (over TLS) and `file:NAME[?loop=1]`, a file of the media folder.
Nothing else opens: not a path, not FFmpeg's `concat:`, `pipe:`, `subfile:` and their like.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import quote, unquote

LONGEST = 2048
DEFAULT_PORTS = {"rtsp": 554, "rtsps": 322}
EXPECTED = "expected rtsp://host/path, rtsps://host/path or file:NAME"
_IPV6 = "expected an IPv6 address between [ and ]"
_ESCAPED = "expected / ? # @ of a user name or password as %2F %3F %23 %40, and @ of a path as %40"

_NAME = re.compile(r"(?:(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\.)*(?!-)[A-Za-z0-9_-]{1,63}(?<!-)\.?")
_LOOKS_LIKE_A_NUMBER = re.compile(r"(?:.*\.)?(?:0[xX][0-9a-fA-F]*|[0-9]+)\.?")
_FILE = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_. +-]{0,199})(\?loop=[01])?")
_LIST = re.compile(r".*\.(?:m3u8?|mpd|sdp|ffconcat|pls|asx|xspf)", re.IGNORECASE)
_UNSEEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # a tab, a zero-width space, half a character
_AROUND = " \t\r\n\ufeff\u200b\u2060\u00a0"  # what comes along when an address is copied

Network = IPv4Network | IPv6Network

_NAT64 = IPv6Network("64:ff9b::/96")
_COMPATIBLE = IPv6Network("::/96")

# Not a camera, whoever asks: loopback, link-local, the metadata services of clouds, and what is no
# single machine's address. The ingestors refuse them too, once a name is looked up.
DENIED_UNLESS_ALLOWED = tuple(
    map(
        ip_network,
        (
            "0.0.0.0/8",
            "127.0.0.0/8",
            "169.254.0.0/16",
            "100.100.100.200/32",
            "192.0.0.192/32",
            "224.0.0.0/3",
            "::/96",
            "fd00:ec2::254/128",
            "fe80::/10",
            "ff00::/8",
        ),
    )
)


@dataclass(frozen=True)
class Credentials:
    username: str
    password: str = field(repr=False)


@dataclass(frozen=True)
class Address:
    url: str  # without userinfo
    scheme: str
    host: str  # of a file: its name
    port: int
    credentials: Credentials | None = None

    @property
    def place(self) -> tuple[str, str, int]:
        """Whom a password is given to: it goes to no other place."""
        return self.scheme, self.host, self.port


def address(text: str) -> Address:
    """Raises ValueError that says what was expected and never repeats what was given.

    Accepted is what has one clear meaning, whatever its spelling: spaces around it, capitals, no
    port, dots behind the host, a path that should have been escaped.
    """
    text = text.strip(_AROUND)
    if len(text) > LONGEST:
        raise ValueError(f"expected at most {LONGEST} characters")
    if any(unicodedata.category(character) in _UNSEEN for character in text):
        raise ValueError("expected no control characters, and none that can't be seen")
    scheme, colon, rest = text.partition(":")
    scheme = scheme.lower()
    if colon and scheme == "file":
        return _file(rest)
    if scheme not in DEFAULT_PORTS or not rest.startswith("//"):
        raise ValueError(EXPECTED)
    return _camera(scheme, rest[2:])


def _file(rest: str) -> Address:
    match = _FILE.fullmatch(rest)
    if match is None:
        raise ValueError("expected file:NAME, a file of the media folder, with ?loop=1 or without")
    if _LIST.fullmatch(match[1]):
        raise ValueError("expected a video, not a list of others")
    return Address(f"file:{rest}", "file", match[1], 0)


def _camera(scheme: str, rest: str) -> Address:
    authority, path = _parted(rest)
    userinfo, _, place = authority.rpartition("@")
    if place.rstrip(":").lower() in DEFAULT_PORTS and path.startswith("//"):
        raise ValueError("expected rtsp:// once")
    if "#" in path or "@" in path:  # of a password, perhaps: who knows where that ends?
        raise ValueError(_ESCAPED)
    host, port = _host_and_port(place)
    url = f"{scheme}://{host}{'' if port is None else f':{port}'}{_escaped(path)}"
    if len(url) > LONGEST:
        raise ValueError(f"expected at most {LONGEST} characters")
    credentials = None
    if userinfo.strip(":"):
        username, _, password = userinfo.partition(":")
        credentials = Credentials(_plain(username), _plain(password))
    return Address(url, scheme, host, port or DEFAULT_PORTS[scheme], credentials)


_NO_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_KEPT = "%/?:@!$&'()*+,;=-._~[]"  # of a path and a query: all but what no URL may hold


def _escaped(path: str) -> str:
    return quote(_NO_ESCAPE.sub("%25", path), safe=_KEPT)


def _parted(rest: str) -> tuple[str, str]:
    end = min(found for mark in "/?#" if (found := (rest + mark).find(mark)) >= 0)
    return rest[:end], rest[end:]


def _plain(part: str) -> str:
    """A camera's password is bytes to most cameras; ours is text."""
    try:
        text = unquote(part, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("expected user name and password in UTF-8") from None
    if any(ord(character) < 32 or ord(character) == 127 for character in text):
        raise ValueError("expected no control characters in user name and password")
    return text


def _host_and_port(place: str) -> tuple[str, int | None]:
    host, port = place, ""
    if place.startswith("["):
        host, _, port = place[1:].partition("]")
        if port and not port.startswith(":"):
            raise ValueError(EXPECTED)
        port = port[1:]
    elif place.count(":") > 1:
        raise ValueError(f"{_IPV6} (and % escapes in a password)")
    elif ":" in place:
        host, _, port = place.partition(":")
    return _host(host, place.startswith("[")), _port(port)


def _host(host: str, bracketed: bool) -> str:
    if bracketed:
        return f"[{_ipv6(host).compressed}]"
    if _LOOKS_LIKE_A_NUMBER.fullmatch(host):
        try:
            return str(IPv4Address(host.rstrip(".")))
        except ValueError:
            raise ValueError("expected a name or an address as 192.168.1.20") from None
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise ValueError("expected the name or address of a camera after //")
    return host.lower().rstrip(".")


def _ipv6(host: str) -> IPv6Address:
    """A zone names an interface of one machine: whose, once there are several ingestors?"""
    if "%" in host:
        raise ValueError("expected an IPv6 address without a zone (%eth0)")
    try:
        return IPv6Address(host)
    except ValueError:
        raise ValueError(_IPV6) from None


def _port(port: str) -> int | None:
    if not port:
        return None
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) < 65536):
        raise ValueError("expected a port from 1 to 65535 (and % escapes in a password)")
    return int(port)


class Networks:
    """Where a camera may be, as far as an address says so; names are looked up by ingestors."""

    def __init__(self, allowed: Sequence[str] = (), denied: Sequence[str] = ()) -> None:
        self._allowed = [ip_network(network, strict=False) for network in allowed]
        self._denied = [ip_network(network, strict=False) for network in denied]

    def allow(self, host: str) -> bool:
        try:
            at = ip_address(host.strip("[]"))
        except ValueError:
            return True
        places = [at, *_within(at)]
        if _any_is_in(places, self._denied):
            return False
        return _any_is_in(places, self._allowed) or not _any_is_in(places, DENIED_UNLESS_ALLOWED)


def _any_is_in(places: Sequence[IPv4Address | IPv6Address], networks: Sequence[Network]) -> bool:
    return any(at in network for at in places for network in networks)


def _within(at: IPv4Address | IPv6Address) -> list[IPv4Address]:
    """The IPv4 address that an IPv6 one leads to: mapped, compatible, by 6to4 or NAT64 (RFC 4291,
    3056, 6052)."""
    if isinstance(at, IPv4Address):
        return []
    is_last = at in _NAT64 or (at in _COMPATIBLE and int(at) > 1)  # :: and ::1 lead nowhere else
    last = IPv4Address(int(at) & 0xFFFFFFFF) if is_last else None
    return [found for found in (at.ipv4_mapped, at.sixtofour, last) if found is not None]
