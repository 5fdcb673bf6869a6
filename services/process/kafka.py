"""Settings -> what a confluent-kafka client or Faust is configured with."""

import logging
import ssl
from collections.abc import Iterable
from operator import methodcaller
from typing import Any

from confluent_kafka import Message

from services.process.settings import KafkaSettings

librdkafka = logging.getLogger("librdkafka")


def client_config(settings: KafkaSettings, client_id: str) -> dict[str, Any]:
    """For Producer, Consumer and AdminClient alike.

    `logger` keeps librdkafka from writing raw lines to stderr; a client logs only while it is
    polled.
    """
    config: dict[str, Any] = {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": client_id,
        "security.protocol": settings.kafka_security_protocol,
        "logger": librdkafka,
        "log.connection.close": False,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 1000,
        "topic.metadata.refresh.interval.ms": 30_000,
    }
    if settings.kafka_security_protocol.startswith("SASL"):
        config |= {
            "sasl.mechanism": settings.kafka_sasl_mechanism,
            "sasl.username": settings.kafka_sasl_username,
            "sasl.password": settings.kafka_sasl_password.get_secret_value(),
        }
    for name, path in (
        ("ssl.ca.location", settings.kafka_ssl_ca_location),
        ("ssl.certificate.location", settings.kafka_ssl_certificate_location),
        ("ssl.key.location", settings.kafka_ssl_key_location),
    ):
        if path is not None:
            config[name] = str(path)
    return config


_headers = methodcaller("headers")  # a hot call of its own would skip the check that raises


def headers_of(message: Message) -> list[tuple[str, bytes]]:
    """None of a message with a header whose name is not UTF-8: asking for those raises a bug of
    the client's, and asking again crashes the process."""
    try:
        pairs: Iterable[tuple[str, str | bytes | None]] = _headers(message) or ()
    except SystemError:
        return []
    return [(name, text.encode() if isinstance(text, str) else text or b"") for name, text in pairs]


def ssl_context(settings: KafkaSettings) -> ssl.SSLContext | None:
    """For clients that take a context (aiokafka); None where the protocol has no TLS."""
    if not settings.kafka_security_protocol.endswith("SSL"):
        return None
    context = ssl.create_default_context(cafile=settings.kafka_ssl_ca_location)
    if settings.kafka_ssl_certificate_location is not None:
        context.load_cert_chain(
            settings.kafka_ssl_certificate_location, settings.kafka_ssl_key_location
        )
    return context
