"""What the persister must be told."""

import pytest


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("DATABASE_URL", "", "setting DATABASE_URL: expected postgresql://user@host:port/name"),
        ("PERSISTER_BATCH_SIZE", "0", "setting PERSISTER_BATCH_SIZE: expected 1 to 20000 messages"),
        ("SIGHTLOG_TOPIC_PREFIX", "a b", "setting SIGHTLOG_TOPIC_PREFIX: expected letters"),
    ],
)
def test_a_wrong_setting_ends_it_with_status_2_and_its_name(start_persister, name, value, expected):
    process = start_persister(**{name: value})
    assert process.wait(30) == 2
    (line,) = process.log.read_text().splitlines()
    assert line.startswith(expected)
