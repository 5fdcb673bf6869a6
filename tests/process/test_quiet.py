import logging

from services.process.quiet import OncePerSecond


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def line(name: str, message: str) -> logging.LogRecord:
    return logging.LogRecord(name, logging.ERROR, "", 0, message, (), None)


def test_a_storm_becomes_a_line_a_second_that_says_how_many_it_stands_for():
    clock = Clock()
    once = OncePerSecond(clock)
    passed = []
    for tick in range(70):
        clock.now = tick / 70
        record = line("aiokafka.conn", f"node {tick} is away")
        passed += [record.msg] if once.filter(record) else []
    clock.now = 1.1
    last = line("aiokafka.conn", "node 3 is away")
    assert once.filter(last)
    assert passed == ["node 0 is away"]
    assert last.msg == "node 3 is away (and 69 more like it)"


def test_our_own_lines_and_other_messages_are_left_alone():
    once = OncePerSecond(Clock())
    assert all(once.filter(line("services.detector.app", "said")) for _ in range(10))
    assert once.filter(line("faust.app", "one"))
    assert once.filter(line("faust.app", "other"))
