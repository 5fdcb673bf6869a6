"""The cameras file."""

import hashlib
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.local.camera import (
    Camera,
    CamerasUnreadable,
    digest_ha1,
    read_cameras,
    write_cameras,
)
from deploy.local.cameras import add_cameras, put_cameras, set_fault

DOOR = Camera("door", "door.mp4", fps=12.5, username="jörg", ha1=digest_ha1("jörg", "x"))


def test_what_was_written_is_read_back(tmp_path):
    cameras = [DOOR, Camera("yard", "yard.mp4", fault="clock=+3600")]
    write_cameras(tmp_path / "cameras.json", cameras)
    assert read_cameras(tmp_path / "cameras.json") == cameras


def test_the_file_is_for_its_owner_and_nothing_is_left_beside_it(tmp_path):
    path = tmp_path / "cameras.json"
    write_cameras(path, [])
    write_cameras(path, [DOOR])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_no_file_is_no_cameras(tmp_path):
    assert read_cameras(tmp_path / "cameras.json") == []


def test_the_proof_is_the_one_of_the_digest_standard():
    known = hashlib.md5("jörg:sightlog:p@:ü".encode()).hexdigest()
    assert digest_ha1("jörg", "p@:ü") == known


def test_a_camera_shows_nothing_of_its_account():
    assert repr(DOOR) == "Camera('door')"


@pytest.mark.parametrize(
    "camera",
    [
        '{"name": "a/b", "clip": "x"}',
        '{"name": "", "clip": "x"}',
        '{"name": "a"}',
        '{"name": "a", "clip": ""}',
        '{"name": "a", "clip": "x", "fps": 0}',
        '{"name": "a", "clip": "x", "fps": "5"}',
        '{"name": "a", "clip": "x", "username": "u"}',
        '{"name": "a", "clip": "x", "username": "u", "ha1": "password"}',
        '{"name": "a", "clip": "x", "username": "u:v", "ha1": "00000000000000000000000000000000"}',
        '{"name": "a", "clip": "x", "fault": "fire"}',
        '{"name": "a", "clip": "x", "password": "p"}',
        '{"name": "a", "clip": "x", "schemes": []}',
        '{"name": "a", "clip": "x"}, {"name": "a", "clip": "y"}',
        "1",
    ],
)
def test_a_list_that_is_not_as_it_should_be_is_refused(tmp_path, camera):
    path = tmp_path / "cameras.json"
    path.write_text(f'{{"cameras": [{camera}]}}')
    with pytest.raises(CamerasUnreadable, match=r"cameras\.json"):
        read_cameras(path)


def test_of_changes_at_the_same_time_none_undoes_another(tmp_path):
    path = tmp_path / "cameras.json"
    put_cameras(path, [DOOR])
    with ThreadPoolExecutor(20) as pool:
        added = list(pool.map(lambda _: add_cameras(path, 2, DOOR), range(20)))
        names = [name for pair in added for name in pair]
        assert sorted(names) == sorted(f"cam{number}" for number in range(1, 41))
        list(pool.map(lambda name: set_fault(path, name, "reset"), names))
    assert {camera.name: camera.fault for camera in read_cameras(path)} == {
        "door": "none",
        **dict.fromkeys(names, "reset"),
    }
