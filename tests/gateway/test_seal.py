"""A password is sealed for one stream at one place, and known as a secret from then on."""

import base64
import json

import pytest
from nacl.public import PrivateKey, SealedBox

from services.gateway.addresses import Credentials, address
from services.gateway.seal import NoSealingKey, Seal
from services.process.redact import GONE, redact
from tests.gateway.parts import key_of

KEY = PrivateKey.generate()
CREDENTIALS = Credentials("viewer", "s3aled:once@ü")


def test_what_is_sealed_names_its_stream_and_its_place() -> None:
    box = Seal(key_of(KEY)).sealed("S1", address("rtsp://[FE80::1]:8554/x"), CREDENTIALS)
    assert json.loads(SealedBox(KEY).decrypt(base64.b64decode(box))) == {
        "streamId": "S1",
        "scheme": "rtsp",
        "host": "fe80::1",
        "port": 8554,
        "username": "viewer",
        "password": CREDENTIALS.password,
    }


def test_the_same_password_never_gives_the_same_box() -> None:
    seal, place = Seal(key_of(KEY)), address("rtsp://camera/x")
    assert seal.sealed("S1", place, CREDENTIALS) != seal.sealed("S1", place, CREDENTIALS)


def test_a_sealed_password_is_taken_out_of_all_that_is_said_later() -> None:
    Seal(key_of(KEY)).sealed("S1", address("rtsp://camera/x"), CREDENTIALS)
    assert redact("failed with s3aled%3Aonce%40%C3%BC") == f"failed with {GONE}"
    assert CREDENTIALS.password not in repr(CREDENTIALS)


def test_without_a_key_nothing_is_sealed() -> None:
    with pytest.raises(NoSealingKey):
        Seal("").sealed("S1", address("rtsp://camera/x"), CREDENTIALS)
