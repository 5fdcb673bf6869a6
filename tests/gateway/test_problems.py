"""What an error says of what was sent."""

import time

import httpx
import msgspec
import pytest
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from starlette.requests import HTTPConnection

from services.gateway.problems import (
    LONGEST_READ,
    NOT_FOUND,
    Problem,
    answer_with_problems,
    response_of,
)
from services.process import redact as module
from services.process.redact import GONE, hide

SECRET = "a-secret-of-forty-characters-exactly-so."


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_known", module._Known())
    hide(SECRET)


def answered(path: str) -> dict[str, str]:
    scope = {"type": "http", "path": path, "headers": [], "query_string": b"", "server": ("h", 1)}
    response = response_of(HTTPConnection(scope), Problem(NOT_FOUND, "there is none"))
    answer: dict[str, str] = msgspec.json.decode(response.body)
    return answer


def seconds_for(path: str) -> float:
    taken_s = []
    for _ in range(5):
        began_s = time.process_time()
        answered(path)
        taken_s.append(time.process_time() - began_s)
    return min(taken_s)


def test_a_path_made_to_take_long_takes_no_longer_than_one_that_can_be_meant() -> None:
    adverse = "/" + ("=" * 199 + ":%252525") * 300
    assert seconds_for(adverse) < 20 * seconds_for(adverse[:LONGEST_READ])


@pytest.mark.parametrize(
    "before", [*range(150, 210, 7), *range(LONGEST_READ - 50, LONGEST_READ, 5)]
)
def test_no_part_of_a_secret_shows_wherever_a_path_is_cut(before: int) -> None:
    for filler in ("x" * before, "rtsp://u:p@h/ " * (before // 14)):
        shown = answered(f"/{filler} {SECRET}/more")["instance"]
        assert SECRET[:3] not in shown
        assert shown == GONE or shown.startswith(("/xxx", f"/rtsp://{GONE}@h/"))


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


@pytest.fixture
def app() -> FastAPI:
    app = FastAPI()
    answer_with_problems(app)
    app.post("/")(takes)
    return app


async def takes(body: Body) -> None:
    pass


async def refused(app: FastAPI, body: dict[str, int]) -> str:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://h") as client:
        answer = await client.post("/", json=body)
    assert answer.status_code == 422
    return answer.text


@pytest.mark.parametrize("before", [0, 150, 160, 170, 180, 190, 198, 900, 970, 990, 2000])
async def test_no_part_of_a_secret_shows_that_is_a_fields_name(app: FastAPI, before: int) -> None:
    text = await refused(app, {"x" * before + " " + SECRET: 1})
    assert SECRET[:3] not in text
    assert "is not a field" in text


async def test_of_many_errors_the_first_are_told(app: FastAPI) -> None:
    text = await refused(app, {f"field{number}": 1 for number in range(150)})
    assert text.count('"pointer"') == 100
