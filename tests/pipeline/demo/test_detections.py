"""What comes out of the demo is what is in the clip, by its truth file."""

from base64 import b64decode
from typing import Any

import httpx
import numpy as np
import pytest
import simplejpeg

from tests.ai.walk import HEIGHT, WIDTH, Corners, Frame, iou, walk
from tests.stack import RunningStack, eventually

Picture = np.ndarray[Any, np.dtype[np.float32]]


@pytest.fixture(scope="module")
def clip() -> list[tuple[Picture, Frame]]:
    return [(luma(frame.jpeg), frame) for frame in walk(every=1)]


def luma(jpeg: bytes) -> Picture:
    grey = simplejpeg.decode_jpeg(jpeg, colorspace="GRAY")[:, :, 0]
    return np.asarray(grey, dtype=np.float32)


def best_by_psnr(picture: Picture, clip: list[tuple[Picture, Frame]]) -> Frame:
    """The frame with the least squared error, which is the one with the best PSNR."""
    return min(clip, key=lambda one: float(np.mean((one[0] - picture) ** 2)))[1]


def corners(detection: dict[str, Any]) -> Corners:
    box = detection["boundingBox"]
    return (box["x"], box["y"], box["x"] + box["width"], box["y"] + box["height"])


def test_cameras_and_file_run_and_say_so(gateway: httpx.Client) -> None:
    def statuses() -> list[str]:
        return [stream["status"] for stream in gateway.get("/streams").json()]

    assert eventually(lambda: statuses() == ["RUNNING"] * 3, 60), gateway.get("/streams").text


def test_people_are_found_where_they_are(
    demo: RunningStack, gateway: httpx.Client, clip: list[tuple[Picture, Frame]]
) -> None:
    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = gateway.get("/detections?label=person&limit=200").json()
        return [row for row in found if row["imagePath"]]

    assert eventually(lambda: len(rows()) >= 20, 120)
    good, pictures = 0, {}
    for row in (detections := rows()):
        path = row["imagePath"]
        if path not in pictures:
            pictures[path] = best_by_psnr(luma(gateway.get(path).raise_for_status().content), clip)
        assert row["metadata"]["frame"] == {"width": WIDTH, "height": HEIGHT}
        known = [each.corners for each in pictures[path].known]
        good += any(iou(corners(row), truth) >= 0.5 for truth in known)
    print(f"{good} of {len(detections)} boxes lie on a box of the truth")
    assert good / len(detections) >= 0.8, f"{good} of {len(detections)}"


def test_the_books_of_each_stream_close_over_rest(gateway: httpx.Client) -> None:
    streams = gateway.get("/streams").json()
    assert eventually(lambda: all(are_closed(gateway, one["id"]) for one in streams), 90)


def are_closed(gateway: httpx.Client, stream: str) -> bool:
    """Every frame of enough of them has its outcome; they balance, whether closed or not."""
    told = gateway.get(f"/streams/{stream}/ledger").json()
    assert told["balances"], told
    assert (told["undetected"], told["unread"]) == (0, 0), told
    for covered in told["ranges"]:
        assert (covered["fromSeq"], covered["toSeq"]) == (0, told["published"] - 1)
    return bool(told["published"] >= 20 and told["outcomes"]["ok"] and not told["unanswered"])


def test_a_source_is_looked_at_before_it_is_saved(
    demo: RunningStack, gateway: httpx.Client
) -> None:
    url = demo["cameras"][0]["url"]
    before = gateway.get("/streams").json()
    seen = gateway.post("/streams/probe", json={"rtspUrl": url}).json()
    kind, _, picture = seen["thumbnail"].partition(",")
    assert (seen["ok"], kind) == (True, "data:image/jpeg;base64")
    assert luma(b64decode(picture)).shape == (HEIGHT, WIDTH)
    missing = gateway.post("/streams/probe", json={"rtspUrl": f"{url}-no"}).json()
    assert (missing["ok"], missing["reason"]) == (False, "NOT_FOUND")
    assert len(gateway.get("/streams").json()) == len(before)


def test_the_newest_picture_and_the_live_view_come_from_the_owner(gateway: httpx.Client) -> None:
    stream = gateway.get("/streams").json()[0]["id"]
    frame = gateway.get(f"/streams/{stream}/frame")
    assert frame.headers["X-Frame-Id"].startswith(stream)
    assert luma(frame.content).shape == (HEIGHT, WIDTH)
    with gateway.stream("GET", f"/streams/{stream}/live") as live:
        assert live.headers["content-type"].startswith("multipart/x-mixed-replace")
        seen = b""
        for chunk in live.iter_bytes():
            seen += chunk
            if seen.count(b"\xff\xd8\xff") >= 3:
                break
