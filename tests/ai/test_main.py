import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from tests.ai.conftest import Service, StartService, until
from tests.ai.test_app import JPEG, half_sent


def listens(service: Service) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", service.port)) == 0


def test_sigterm_lets_a_request_finish_and_ends_with_status_0(
    start_service: StartService, jpeg: bytes
) -> None:
    service = start_service(LOG_LEVEL="INFO")
    service.client.post("/detect", content=jpeg, headers=JPEG)
    with half_sent(service, jpeg) as late:
        until(lambda: service.metric("sightlog_ai_queued_pictures") == 1)
        service.process.send_signal(signal.SIGTERM)
        until(lambda: not listens(service))
        late.sendall(jpeg[1000:])
        assert late.recv(100).startswith(b"HTTP/1.1 200")
    assert service.process.wait(10) == 0
    log = service.log.read_text()
    assert "Traceback" not in log
    assert "/detect" not in log


def test_sigterm_ends_it_with_status_0_although_clients_never_finish_and_many_wait(
    start_service: StartService, jpeg: bytes
) -> None:
    service = start_service(LOG_LEVEL="INFO", AI_THREADS="1")
    with ExitStack() as opened:
        for _ in range(3):
            opened.enter_context(half_sent(service, jpeg))
        for _ in range(20):
            opened.enter_context(half_sent(service, jpeg)).sendall(jpeg[1000:])
        until(lambda: service.metric("sightlog_ai_queued_pictures") >= 3)
        began = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(40) == 0
        seconds = time.monotonic() - began
    print(f"ended {seconds:.1f} s after SIGTERM, the bar is 10")
    assert seconds < 40
    assert "Traceback" not in service.log.read_text(), service.log.read_text()


def test_a_flood_of_what_is_no_http_is_not_one_of_lines_too(start_service: StartService) -> None:
    service = start_service(LOG_LEVEL="INFO")
    for _ in range(300):
        with socket.create_connection(("127.0.0.1", service.port), timeout=10) as client:
            client.sendall(b"\x16\x03\x01 \x00\r\n\r\n")
            client.recv(100)
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(15) == 0
    assert len(service.log.read_text().splitlines()) < 60


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AI_MODEL_PATH", "/nowhere/x.onnx"),
        ("AI_PROVIDER", "cuda"),
        ("AI_PROVIDER", "magic"),
        ("AI_THREADS", "0"),
    ],
)
def test_a_wrong_setting_ends_it_with_status_2_and_its_name(name: str, value: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.ai"],
        env=os.environ | {name: value, "AI_HTTP_PORT": "1"},
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 2
    assert ended.stderr.decode().startswith(f"setting {name}: expected")
    assert len(ended.stderr.splitlines()) == 1
