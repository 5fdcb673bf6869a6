"""What of this process's environment a child may see: where things are, never what is secret."""

import os
from pathlib import Path

INHERITED = (
    "HOME",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "LOGNAME",
    "PATH",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TMPDIR",
    "TZ",
    "USER",
)
SOURCE = Path(__file__).parents[2]


def minimal_environment() -> dict[str, str]:
    """The inherited names that are set, and the way to this very code."""
    kept = {name: os.environ[name] for name in INHERITED if name in os.environ}
    search = os.pathsep.join(filter(None, (str(SOURCE), os.environ.get("PYTHONPATH"))))
    return kept | {"PYTHONPATH": search, "PYTHONUNBUFFERED": "1"}
