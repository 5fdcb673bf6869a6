import os
import signal
import socket
import subprocess
import sys

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
