import json
import subprocess
import sys

LOSES_A_THREAD = """
import threading
from services.process.logging import configure_logging
from services.process.stop import exit_when_a_thread_dies
configure_logging("door", "INFO")
exit_when_a_thread_dies()
threading.Thread(target=lambda: {}["key"], name="fence", daemon=True).start()
threading.Event().wait(30)
print("still here")
"""


def test_a_process_ends_with_a_thread_that_died_and_says_which() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", LOSES_A_THREAD],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    [line] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (line["event"], line["level"], line["thread"]) == ("thread.died", "critical", "fence")
    assert "KeyError" in line["exception"]


CRASHES_WITH_WORK_LEFT = """
import threading
from services.process.logging import configure_logging
configure_logging("door", "INFO")
threading.Thread(target=threading.Event().wait).start()
{}["key"]
"""


def test_a_crash_ends_a_process_whose_threads_would_go_on() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", CRASHES_WITH_WORK_LEFT],
        check=False,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert ended.returncode == 1
    assert json.loads(ended.stderr)["event"] == "process.crashed"
