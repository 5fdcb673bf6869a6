"""The ingestor's own process, and those of its cameras."""

import subprocess
import sys


def test_the_ingestor_itself_loads_nothing_that_decodes():
    code = "import sys, services.ingestor.__main__; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    loaded = set(done.stdout.split())
    assert "services.ingestor.camera_process" in loaded
    assert not loaded & {"av", "numpy", "simplejpeg", "services.ingestor.camera"}
