"""A log stays bounded while its writer keeps it open."""

from deploy.local.rotate import rotate


def test_a_small_log_is_left_alone(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("short")
    assert not rotate(log, largest_bytes=5)
    assert log.read_text() == "short"


def test_a_large_log_goes_on_empty_and_its_writer_notices_nothing(tmp_path):
    log = tmp_path / "a.log"
    with log.open("a") as writer:
        writer.write("old " * 10)
        writer.flush()
        assert rotate(log, largest_bytes=5)
        writer.write("new")
    assert log.read_text() == "new"
    assert (tmp_path / "a.log.1").read_text() == "old " * 10


def test_a_log_that_is_not_there_yet_is_fine(tmp_path):
    assert not rotate(tmp_path / "none.log")
