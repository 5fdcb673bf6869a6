"""Sloppy but clear addresses, and the password in them."""

from ipaddress import ip_network

import pytest

from services.gateway.addresses import DENIED_UNLESS_ALLOWED, Credentials, Networks, address
from services.ingestor.locate import REFUSED_UNLESS_ALLOWED, Forbidden, Rules, locate


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (" rtsp://cam/live ", "rtsp://cam/live"),
        ("RTSP://Cam.Local./Live", "rtsp://cam.local/Live"),
        ("rtsp://cam", "rtsp://cam"),
        ("rtsp://cam:554", "rtsp://cam:554"),
        ("rtsp://10.0.0.9?channel=1&subtype=0", "rtsp://10.0.0.9?channel=1&subtype=0"),
        ("rtsp://[FE80::0:1]:8554/x", "rtsp://[fe80::1]:8554/x"),
        ("rtsp://cam_1/ü/%20", "rtsp://cam_1/%C3%BC/%20"),
        ("\ufeffrtsp://cam/live\u200b\n", "rtsp://cam/live"),
        ("rtsp://cam/live stream?a=b c", "rtsp://cam/live%20stream?a=b%20c"),
        ("rtsp://cam/100%&a=%zz%4a", "rtsp://cam/100%25&a=%25zz%4a"),
        ('rtsp://cam/a\\b"<|>', "rtsp://cam/a%5Cb%22%3C%7C%3E"),
        ("rtsp://10.0.0.9.:/live", "rtsp://10.0.0.9/live"),
        ("rtsp://@cam/live", "rtsp://cam/live"),
        ("rtsp://cam/a%40b", "rtsp://cam/a%40b"),
        ("rtsp://rtsp/live", "rtsp://rtsp/live"),
        ("rtsp://cam/list.m3u8", "rtsp://cam/list.m3u8"),
        ("file:walk 1.mp4?loop=1", "file:walk 1.mp4?loop=1"),
        ("file:walk.mp4", "file:walk.mp4"),
    ],
)
def test_what_is_clear_is_accepted(text, url):
    assert address(text).url == url


@pytest.mark.parametrize(
    ("userinfo", "credentials"),
    [
        ("admin:pass", Credentials("admin", "pass")),
        ("admin", Credentials("admin", "")),
        ("admin:p@ss:word", Credentials("admin", "p@ss:word")),
        ("admin:%40%3A%2F%3F%23%25", Credentials("admin", "@:/?#%")),
        ("admin:pass%", Credentials("admin", "pass%")),
        ("admin:p[1] $&", Credentials("admin", "p[1] $&")),
        ("jos%C3%A9:ü", Credentials("josé", "ü")),
    ],
)
def test_user_and_password_are_taken_out_of_the_url(userinfo, credentials):
    found = address(f"rtsp://{userinfo}@cam:8554/live")
    assert found.credentials == credentials
    assert found.url == "rtsp://cam:8554/live"
    assert "pass" not in repr(found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("192.168.1.20/live", "rtsp://host/path"),
        ("rtsp:/cam/live", "rtsp://host/path"),
        ("rtsp:\\\\cam\\live", "rtsp://host/path"),
        ("rtsp://rtsp://cam/live", "once"),
        ("rtsp://cam/a\tb", "control characters"),
        ("rtsp://c\u200bam/", "can't be seen"),
        ("rtsp://my cam/", "name or address"),
        ("rtsp://fe80::1/live", r"between \[ and \]"),
        ("rtsp://[fe80::1%25eth0]/live", "without a zone"),
        ("rtsp://[fe80::1%eth0]/live", "without a zone"),
        ("rtsp://admin:pa/ss@cam/", "%2F"),
        ("rtsp://admin:pa#ss@cam/", "%23"),
        ("rtsp://admin:p@ss/word@cam/1", "%2F"),
        ("rtsp://admin:p@ss?word@cam/1", "%3F"),
        ("rtsp://admin:pass@cam/1?user=a@b", "of a path as %40"),
        ("rtsp://cam/a@b", "of a path as %40"),
        ("file:list.m3u8", "not a list"),
        ("file:List.MPD?loop=1", "not a list"),
    ],
)
def test_what_is_not_clear_is_refused_with_what_would_be(text, expected):
    with pytest.raises(ValueError, match=expected):
        address(text)


def test_the_usual_port_is_the_same_place_as_none():
    assert address("rtsp://cam/a").place == address("rtsp://CAM:554/b").place
    assert address("rtsp://cam/a").place != address("rtsp://cam:8554/a").place


def test_a_camera_over_tls_is_another_place_than_the_same_without():
    assert address("RTSPS://cam/a").place == address("rtsps://cam:322/b").place
    assert address("rtsps://cam:554/a").place != address("rtsp://cam:554/a").place


def test_what_was_refused_is_not_repeated():
    with pytest.raises(ValueError, match="expected") as refusal:
        address("rtsp://user:secret/x@cam/")
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize(
    ("host", "allowed"),
    [
        ("10.0.0.9", True),
        ("cam.local", True),
        ("127.0.0.1", False),
        ("169.254.169.254", False),
        ("100.100.100.200", False),
        ("0.0.0.0", False),  # noqa: S104 -- refused, not listened on
        ("239.1.2.3", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("[::1]", False),
        ("[::127.0.0.1]", False),
        ("[::10.0.0.9]", False),
        ("[::ffff:169.254.169.254]", False),
        ("[fd00:ec2::254]", False),
        ("[2001:db8::1]", True),
        ("[64:ff9b::169.254.169.254]", False),
        ("[64:ff9b::7f00:1]", False),
        ("[64:ff9b::10.0.0.9]", True),
        ("[2002:7f00:1::1]", False),
        ("[2002:a9fe:a9fe::]", False),
        ("[2002:a00:9::1]", True),
    ],
)
def test_where_cameras_may_not_be_unless_told(host, allowed, tmp_path):
    """Whoever looks at the address, and whoever opens it."""
    assert Networks().allow(host) is allowed
    assert opens(host, Rules(tmp_path)) is allowed


def opens(host: str, rules: Rules) -> bool:
    found = "10.0.0.9" if host == "cam.local" else host.strip("[]")
    try:
        locate(f"rtsp://{host}/live", None, None, rules, resolve=lambda *_: [found])
    except Forbidden:
        return False
    return True


def test_gateway_and_ingestor_refuse_the_same_networks():
    assert {*DENIED_UNLESS_ALLOWED} == {*REFUSED_UNLESS_ALLOWED}


def test_an_embedded_address_is_judged_whatever_is_allowed_around_it(tmp_path):
    networks = Networks(allowed=["::/0"], denied=["10.0.0.0/8"])
    rules = Rules(tmp_path, [ip_network("::/0")], [ip_network("10.0.0.0/8")])
    for host, allowed in (("[::10.0.0.9]", False), ("[::1]", True)):
        assert networks.allow(host) is allowed
        assert opens(host, rules) is allowed


def test_denied_beats_allowed_beats_what_is_refused_by_default():
    networks = Networks(allowed=["127.0.0.0/8"], denied=["127.0.0.2/32", "10.0.0.0/8"])
    hosts = ("127.0.0.1", "127.0.0.2", "10.0.0.9", "192.168.0.9", "[::1]", "[::ffff:10.0.0.9]")
    assert [networks.allow(host) for host in hosts] == [True, False, False, True, False, False]
