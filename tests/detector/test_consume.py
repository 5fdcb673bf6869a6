"""What the worker is told about the broker."""

import ssl

from faust.auth import SASLCredentials, SSLCredentials

from services.detector.consume import Broker, create_worker, credentials


class Nobody:
    """A reader that is sent nothing."""

    async def ready(self) -> None: ...
    def take(self, delivery) -> None: ...
    async def assigned(self, partitions, commit) -> None: ...
    async def revoked(self, partitions) -> None: ...
    async def drain(self) -> None: ...
    def fail(self, error) -> None: ...


def test_the_group_is_named_exactly_as_others_rely_on():
    broker = Broker("127.0.0.1:1, 127.0.0.1:2", None, 10)
    app = create_worker(broker, "sightlog.detector", "sightlog.frames.v1", Nobody())
    assert app.conf.id == "sightlog.detector"
    assert [url.port for url in app.conf.broker] == [1, 2]


def test_each_security_protocol_has_its_credentials():
    context = ssl.create_default_context()
    assert credentials("PLAINTEXT", "PLAIN", "", "", None) is None
    assert isinstance(credentials("SSL", "PLAIN", "", "", context), SSLCredentials)
    for protocol, tls in (("SASL_PLAINTEXT", None), ("SASL_SSL", context)):
        known = credentials(protocol, "SCRAM-SHA-512", "sight", "secret", tls)
        assert isinstance(known, SASLCredentials)
        assert known.protocol.value == protocol
        assert known.mechanism.value == "SCRAM-SHA-512"
        assert "secret" not in repr(known)
