"""Sealed credentials."""

import json
from base64 import b64decode, b64encode

import pytest
from nacl.public import PublicKey, SealedBox
from structlog.testing import capture_logs

from schemas.messages import StreamSpec
from services.ingestor.__main__ import orders
from services.ingestor.settings import Settings
from services.ingestor.unseal import SealBroken, new_key_pair, private_keys, unseal
from services.process.redact import redact

PASSWORD = "p@:/#?%ü$(x)"
CONTENT = {
    "streamId": "S1",
    "scheme": "rtsp",
    "host": "camera.lan",
    "port": 554,
    "username": "viewer",
    "password": PASSWORD,
}
URL = "rtsp://camera.lan/door"


def sealed(public, **changes):
    box = SealedBox(PublicKey(b64decode(public)))
    return b64encode(box.encrypt(json.dumps(CONTENT | changes).encode())).decode()


def test_what_was_sealed_for_a_stream_and_its_address_is_opened():
    public, private = new_key_pair()
    credentials = unseal(sealed(public), private_keys(private), "S1", URL)
    assert (credentials.username, credentials.password) == ("viewer", PASSWORD)
    assert PASSWORD not in repr(credentials)


def test_an_older_key_opens_what_was_sealed_before_the_change():
    (old, old_private), (_, new_private) = new_key_pair(), new_key_pair()
    keys = private_keys(f"{new_private}, {old_private}")
    assert unseal(sealed(old), keys, "S1", URL).password == PASSWORD


def test_what_an_older_key_opened_is_told_by_the_stream_and_nothing_else():
    (old, old_private), (new, new_private) = new_key_pair(), new_key_pair()
    keys = private_keys(f"{new_private},{old_private}")
    with capture_logs() as lines:
        unseal(sealed(new), keys, "S1", URL)
        unseal(sealed(old), keys, "S1", URL)
    assert lines == [
        {"event": "seal.outdated", "log_level": "warning", "stream": "S1", "key": 2},
    ]


def test_an_opened_password_is_hidden_from_then_on():
    public, private = new_key_pair()
    content = sealed(public, password="opened:once+only")
    unseal(content, private_keys(private), "S1", URL)
    assert redact("opened%3Aonce%2Bonly") == "***"


def test_who_orders_says_how_a_password_is_hidden(monkeypatch):
    public, private = new_key_pair()
    monkeypatch.setenv("SIGHTLOG_SEAL_PRIVATE_KEYS", private)
    hidden: list[str] = []
    content = sealed(public, password="a stranger's own")
    spec = StreamSpec(
        stream_id="S1",
        slot=0,
        generation=1,
        running=True,
        name="a probe",
        url=URL,
        sealed_credentials=content,
    )
    assert orders(Settings(), hidden.append)(spec).password == "a stranger's own"
    assert hidden == ["a stranger's own"]
    assert redact("a stranger's own") == "a stranger's own"


@pytest.mark.parametrize(
    ("stream_id", "url"),
    [
        ("S2", URL),
        ("S1", "rtsp://elsewhere.example/door"),
        ("S1", "rtsp://camera.lan:8554/door"),
        ("S1", "rtsps://camera.lan/door"),
        ("S1", "file:camera.lan"),
    ],
)
def test_they_are_given_to_no_other_stream_or_address(stream_id, url):
    public, private = new_key_pair()
    with pytest.raises(SealBroken):
        unseal(sealed(public), private_keys(private), stream_id, url)


def test_a_strange_seal_is_refused_without_a_word_of_what_is_in_it():
    (public, _), (_, other) = new_key_pair(), new_key_pair()
    for box in (sealed(public), "not base64!", b64encode(b"short").decode()):
        with pytest.raises(SealBroken) as refused:
            unseal(box, private_keys(other), "S1", URL)
        assert PASSWORD not in str(refused.value)
        assert refused.value.__cause__ is None


def test_a_box_with_something_else_in_it_is_refused():
    public, private = new_key_pair()
    with pytest.raises(SealBroken):
        unseal(sealed(public, username=None), private_keys(private), "S1", URL)
