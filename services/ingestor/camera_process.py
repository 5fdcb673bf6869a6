"""What each camera's process runs, named without what it is made of.

The fork server loads that once, for all of them. The ingestor itself never decodes a picture, and
does not load what does: it would take 30 MB of memory more.
"""

import socket


def show(link: socket.socket) -> None:
    """In the child."""
    from services.ingestor.camera import main  # noqa: PLC0415 -- see above

    main(link)
