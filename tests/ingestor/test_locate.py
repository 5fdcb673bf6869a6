"""What may be opened."""

from ipaddress import ip_address, ip_network

import pytest

from services.ingestor.locate import (
    FileSource,
    Forbidden,
    NotFound,
    RtspSource,
    Rules,
    locate,
)

PUBLIC = "93.184.216.34"


@pytest.fixture
def rules(tmp_path):
    (tmp_path / "media").mkdir()
    (tmp_path / "media" / "my clip.mp4").write_bytes(b"clip")
    (tmp_path / "secret").write_bytes(b"secret")
    (tmp_path / "media" / "link.mp4").symlink_to(tmp_path / "secret")
    return Rules(tmp_path / "media")


def located(url, rules, found=(PUBLIC,), username=None, password=None):
    return locate(url, username, password, rules, resolve=lambda host, port: found)


def test_a_file_of_the_media_folder_is_found_by_its_name(rules):
    once = located("file:my clip.mp4", rules)
    again = located("file:my%20clip.mp4?loop=1", rules)
    assert once == FileSource(rules.media_path.resolve() / "my clip.mp4", loops=False)
    assert again == FileSource(rules.media_path.resolve() / "my clip.mp4", loops=True)


@pytest.mark.parametrize(
    "url",
    [
        "file:../secret",
        "file:..%2fsecret",
        "file:link.mp4",
        "file:/etc/passwd",
        "file:///etc/passwd",
        "file:",
        "/etc/passwd",
        "concat:a|b",
        "pipe:0",
        "data:text/plain,x",
        "http://example.org/x.mjpeg",
        "rtsp://",
        "rtsp://[::1/x",
        "rtsp://camera:99999/x",
    ],
)
def test_nothing_else_is_opened(url, rules):
    with pytest.raises(Forbidden):
        located(url, rules)


@pytest.mark.parametrize("url", ["file:nothing.mp4", "file:%00", "file:.", "file:" + "x" * 5000])
def test_a_file_that_is_not_there_is_not_found(url, rules):
    with pytest.raises(NotFound):
        located(url, rules)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "169.254.169.254",
        "::1",
        "0.0.0.7",
        "::ffff:127.0.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "::127.0.0.1",
        "fe80::1%2",
        "64:ff9b::127.0.0.1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::",
    ],
)
def test_our_own_machine_and_metadata_services_are_refused(address, rules):
    with pytest.raises(Forbidden):
        located("rtsp://camera/x", rules, found=(PUBLIC, address))


def test_private_networks_are_where_cameras_live(rules):
    assert located("rtsp://10.1.2.3/x", rules, found=("10.1.2.3",))


def test_denied_beats_allowed_beats_the_default(rules):
    allowed = Rules(rules.media_path, allowed=[ip_network("127.0.0.0/8")])
    denied = Rules(rules.media_path, allowed.allowed, denied=[ip_network("127.0.0.2/32")])
    assert located("rtsp://camera/x", allowed, found=("127.0.0.1",))
    assert located("rtsp://camera/x", denied, found=("127.0.0.1",))
    with pytest.raises(Forbidden):
        located("rtsp://camera/x", denied, found=("127.0.0.2",))


@pytest.mark.parametrize("inside", ["::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::1"])
def test_an_address_inside_another_is_judged_by_both(inside, rules):
    assert located("rtsp://camera/x", rules, found=(inside,))
    for denied in ("10.0.0.0/8", "::ffff:0:0/96", "64:ff9b::/96", "2002::/16"):
        network = ip_network(denied)
        judged = Rules(rules.media_path, denied=[network])
        if network.version == 4 or ip_address(inside) in network:
            with pytest.raises(Forbidden):
                located("rtsp://camera/x", judged, found=(inside,))
        else:
            assert located("rtsp://camera/x", judged, found=(inside,))


def test_an_allowed_network_is_allowed_in_ipv6_clothes_too(rules):
    allowed = Rules(rules.media_path, allowed=[ip_network("127.0.0.0/8")])
    assert located("rtsp://camera/x", allowed, found=("::ffff:127.0.0.1", "64:ff9b::127.0.0.1"))


def test_a_name_that_nobody_knows_is_not_found(rules):
    def fail(host, port):
        raise OSError("unknown")

    with pytest.raises(NotFound):
        locate("rtsp://camera/x", None, None, rules, resolve=fail)


def test_credentials_are_percent_encoded_and_stay_out_of_sight(rules):
    source = located("rtsp://camera:8554/a?b=c", rules, username="us er", password="p@:/#?%ü$(x)")
    assert isinstance(source, RtspSource)
    assert source.through(7) == (
        "rtsp://us%20er:p%40%3A%2F%23%3F%25%C3%BC%24%28x%29@127.0.0.1:7/a?b=c"
    )
    assert "us%20er" not in repr(source)


def test_userinfo_in_the_address_itself_is_not_used(rules):
    source = located("rtsp://other:word@camera/a", rules)
    assert isinstance(source, RtspSource)
    assert source.through(7) == "rtsp://127.0.0.1:7/a"


def test_a_name_is_looked_up_once_and_dialled_by_what_was_checked(rules):
    answers = iter([(PUBLIC,), ("127.0.0.1",)])
    source = locate("rtsp://camera/a", None, None, rules, resolve=lambda host, port: next(answers))
    assert isinstance(source, RtspSource)
    assert (source.addresses, source.port, source.is_secured) == ((PUBLIC,), 554, False)


def test_a_camera_over_tls_has_a_port_of_its_own(rules):
    source = located("rtsps://camera/a", rules)
    assert isinstance(source, RtspSource)
    assert (source.host, source.port, source.is_secured) == ("camera", 322, True)
