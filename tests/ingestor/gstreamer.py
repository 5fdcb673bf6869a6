"""`/usr/bin/python3 gstreamer.py`: cameras by GStreamer's RTSP server, which we did not write.

Run by the system's Python, which has Debian's `gir1.2-gst-rtsp-server-1.0`. Prints its port, or
what is missing: `/h264`, `/vp8` and `/audio`, by Digest for `viewer` with the password that the
environment's PASSWORD says.
"""

import os
import sys
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402 -- once their versions are

PICTURES = "videotestsrc is-live=true ! video/x-raw,width=640,height=360,framerate=10/1"
MEDIA = {
    "/h264": f"{PICTURES} ! openh264enc gop-size=10 ! h264parse ! rtph264pay name=pay0",
    "/vp8": f"{PICTURES} ! vp8enc deadline=1 keyframe-max-dist=10 ! rtpvp8pay name=pay0",
    "/audio": "audiotestsrc is-live=true ! mulawenc ! rtppcmupay name=pay0",
}
ROLE = "viewer"
NEEDED = ("openh264enc", "h264parse", "rtph264pay", "vp8enc", "rtpvp8pay", "mulawenc", "rtppcmupay")


def factory(launch: str) -> Any:  # any: gi has no types
    made = GstRtspServer.RTSPMediaFactory()
    made.set_launch(f"( {launch} )")
    made.set_shared(True)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_role(ROLE)
    for what in ("access", "construct"):
        permissions.add_permission_for_role(ROLE, f"media.factory.{what}", True)
    made.set_permissions(permissions)
    return made


def access(password: str) -> Any:  # any: gi has no types
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    auth.add_digest("viewer", password, token)
    return auth


def main() -> None:
    Gst.init(None)
    missing = [name for name in NEEDED if Gst.ElementFactory.find(name) is None]
    if missing:
        sys.exit(f"missing: {' '.join(missing)}")
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service("0")
    server.set_auth(access(os.environ["PASSWORD"]))
    for path, launch in MEDIA.items():
        server.get_mount_points().add_factory(path, factory(launch))
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
