"""Snapshots in a folder: whole, once, and never elsewhere."""

import pytest

from schemas.messages import snapshot_key
from services.persister.keep import StoreAway, keep, key_of, open_folder
from tests.persister.making import DOOR, YARD, arrivals, snapshot


def test_a_snapshot_lies_under_its_stream_and_day(tmp_path):
    message = snapshot(3)
    assert keep(open_folder(tmp_path), arrivals(message)) == (1, [])
    key = snapshot_key(DOOR, message.path.rpartition("/")[2])
    assert (tmp_path / key).read_bytes() == message.jpeg
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / key]


def test_a_repeated_snapshot_is_stored_once(tmp_path):
    store = open_folder(tmp_path)
    assert keep(store, arrivals(snapshot(3), snapshot(3))) == (1, [])
    assert keep(store, arrivals(snapshot(3))) == (0, [])


@pytest.mark.parametrize(
    "path",
    [
        "",
        "../../etc/passwd",
        f"/detections/screenshot/{DOOR}/../x.jpg",
        f"/detections/screenshot/{DOOR}/20261122T120000600001Z_1_3.png",
        f"/detections/screenshot/{YARD}/20261122T120000600001Z_1_3.jpg",
        f"/detections/screenshot/{DOOR}/20261122T120000600001Z_1_3.jpg\n",
        f"/detections/screenshot/{DOOR}/20261122T120000600001Z_1_%2e.jpg",
        f"/detections/screenshot/{DOOR}/{'1' * 1000}.jpg",
        f"/detections/screenshot/{DOOR}/\x00.jpg",
    ],
)
def test_a_path_that_no_detector_gives_is_refused(tmp_path, path):
    new, refusals = keep(open_folder(tmp_path), arrivals(snapshot(3, path=path)))
    assert (new, [refusal.reason for refusal in refusals]) == (0, ["WRONG_PATH"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [0, 1, 2, 10])
def test_what_is_no_whole_jpeg_is_refused(tmp_path, cut):
    whole = snapshot(3).jpeg
    jpeg = whole[:-cut] if cut else b"GIF89a"
    new, refusals = keep(open_folder(tmp_path), arrivals(snapshot(3, jpeg=jpeg)))
    assert (new, [refusal.reason for refusal in refusals]) == (0, ["NOT_JPEG"])
    assert keep(open_folder(tmp_path), arrivals(snapshot(3, jpeg=whole + b"\r\n\0"))) == (1, [])


@pytest.mark.parametrize("stream_id", ["..", "", "a/b", "a\\b", ".hidden", "x" * 65])
def test_a_stream_id_never_leads_out_of_the_store(stream_id):
    filename = "20261122T120000600001Z_1_3.jpg"
    message = snapshot(
        3, stream_id=stream_id, path=f"/detections/screenshot/{stream_id}/{filename}"
    )
    assert key_of(message) is None


def test_a_store_that_is_away_says_so_and_takes_the_picture_when_it_is_back(tmp_path):
    folder = tmp_path / "frames"
    store = open_folder(folder)
    folder.rmdir()
    folder.write_bytes(b"in the way")
    with pytest.raises(StoreAway):
        keep(store, arrivals(snapshot(3)))
    with pytest.raises(StoreAway):
        open_folder(folder)
    folder.unlink()
    assert keep(store, arrivals(snapshot(3))) == (1, [])
