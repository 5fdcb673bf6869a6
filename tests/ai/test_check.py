import json
from pathlib import Path

import simplejpeg

from services.ai.check import check
from services.ai.settings import BUNDLED


def test_a_model_is_tried_on_a_picture(tmp_path: Path, jpeg: bytes, capsys) -> None:
    (tmp_path / "in.jpg").write_bytes(jpeg)
    files = ["--image", str(tmp_path / "in.jpg"), "--out", str(tmp_path / "out.jpg")]
    assert check([str(BUNDLED), *files]) == 0
    answer = json.loads(capsys.readouterr().out)
    labels = [found["label"] for found in answer["detections"]]
    assert labels.count("person") == 3
    drawn = simplejpeg.decode_jpeg((tmp_path / "out.jpg").read_bytes(), "BGR")
    box = answer["detections"][0]["boundingBox"]
    blue, green, red = drawn[round(box["y"]) + 1, round(box["x"] + box["width"] / 2)]
    assert green > 180 > max(blue, red)


def test_what_can_t_be_tried_is_said_in_one_line(tmp_path: Path, capsys) -> None:
    (tmp_path / "in.jpg").write_bytes(b"GIF89a")
    files = ["--image", str(tmp_path / "in.jpg"), "--out", str(tmp_path / "out.jpg")]
    assert check([str(BUNDLED), *files]) == 1
    assert capsys.readouterr().err.startswith("not a JPEG")
    assert not (tmp_path / "out.jpg").exists()
