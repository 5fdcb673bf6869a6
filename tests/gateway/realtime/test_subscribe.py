"""What clients may ask for."""

import pytest

from services.gateway.realtime.subscribe import (
    BadSubscription,
    Subscription,
    from_message,
    from_query,
)


def test_without_a_word_a_client_wants_everything_but_empty_records() -> None:
    assert from_query("") == Subscription()
    assert from_query("").wants("detection", "any")
    assert not from_query("").empty


def test_a_query_and_a_message_say_the_same() -> None:
    message = (
        '{"action":"subscribe","streams":["a","b"],"events":["detection"],"labels":["person"],'
        '"minConfidence":0.5,"empty":true,"snapshot":false,"cursor":"w1"}'
    )
    query = (
        "streams=a,b&events=detection&labels=person&minConfidence=0.5&empty=true"
        "&snapshot=false&cursor=w1"
    )
    assert from_query(query) == from_message(message)


def test_repeated_names_of_a_query_add_up() -> None:
    assert from_query("streams=a&streams=b,c").streams == {"a", "b", "c"}


def test_the_key_in_a_query_is_not_a_subscription() -> None:
    assert from_query("access_token=secret") == Subscription()


@pytest.mark.parametrize(
    "query",
    [
        "events=frames",
        "minConfidence=2",
        "minConfidence=nan",
        "minConfidence=x",
        "empty=perhaps",
        "unknown=1",
        "action=subscribe",
        "cursor=" + "w" * 101,
        "streams=" + ",".join(f"s{n}" for n in range(1001)),
        "labels=" + "x" * 101,
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: str) -> None:
    with pytest.raises(BadSubscription):
        from_query(query)


@pytest.mark.parametrize(
    "message",
    [
        "",
        "null",
        "[]",
        "{",
        "{}",
        '{"action":"unsubscribe"}',
        '{"action":"subscribe","unknown":1}',
        '{"action":"subscribe","streams":"a"}',
        '{"action":"subscribe","streams":[1]}',
        '{"action":"subscribe","events":["frames"]}',
        '{"action":"subscribe","minConfidence":-1}',
        '{"action":"subscribe","minConfidence":NaN}',
        '{"action":"subscribe","empty":"yes"}',
        "[" * 2000,
        "\ud800",
    ],
)
def test_a_message_that_makes_no_sense_is_refused(message: str) -> None:
    with pytest.raises(BadSubscription):
        from_message(message)
