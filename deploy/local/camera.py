"""Simulated cameras: clips served without end over RTSP, with authentication and faults.

    python -m deploy.local.camera --port 8554 --cameras cameras.json

`cameras.json` is `{"cameras": [{"name": "door", "clip": "door.mp4"}]}` (see `Camera`) and is
followed: cameras come, go and change while the others play on. SIGTERM ends it with status 0.
With `--certificate PEM` they are served over TLS, at `rtsps://`.
"""

import argparse
import asyncio
import contextlib
import signal
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import structlog

from deploy.local.camera_list import Camera, CamerasUnreadable, read_cameras, write_cameras
from deploy.local.camera_server import Connection, ServedCamera
from deploy.local.rtsp_auth import digest_ha1
from deploy.local.rtsp_media import Clip, ClipUnreadable, read_clip, retimed

__all__ = ["Camera", "CamerasUnreadable", "digest_ha1", "read_cameras", "write_cameras"]

POLL_S = 0.2
CLOSE_TIMEOUT_S = 0.5
PENDING_CONNECTIONS = 1_024

log = structlog.get_logger()

FileStamp = tuple[int, int, int] | None


class Cameras:
    """What is served, kept equal to the cameras file. Relative clips are found from `folder`."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._served: dict[str, ServedCamera] = {}
        self._clips: dict[Path, tuple[FileStamp, Clip]] = {}
        self._connections: set[Connection] = set()

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = Connection(self._served, reader, writer)
        self._connections.add(connection)
        try:
            await connection.serve()
        finally:
            self._connections.remove(connection)

    async def close(self) -> None:
        """Cuts everyone off, and waits until each conversation has noticed."""
        for connection in list(self._connections):
            connection.abort()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while self._connections:  # noqa: ASYNC110 -- a few turns of the loop, at most
                    await asyncio.sleep(0)

    async def become(self, cameras: Sequence[Camera]) -> None:
        """Readers of a camera that is gone or changed are cut off; a new fault cuts no one off."""
        wanted = {camera.name: camera for camera in cameras}
        for name in self._served.keys() - wanted.keys():
            self._served.pop(name).disconnect()
            log.info("camera.removed", camera=name)
        for camera in cameras:
            await self._put(camera)
        in_use = {self._folder / camera.clip for camera in cameras}
        self._clips = {path: clip for path, clip in self._clips.items() if path in in_use}

    async def _put(self, camera: Camera) -> None:
        served = self._served.get(camera.name)
        if served is not None and served.clip is not None and _same(served.camera, camera):
            if served.camera.fault != camera.fault:
                served.suffer(camera)
                log.info("camera.faulted", camera=camera.name, fault=camera.fault.partition("=")[0])
            return
        if served is not None:
            served.disconnect()
        self._served[camera.name] = ServedCamera(camera, await self._clip(camera))
        log.info("camera.added", camera=camera.name, clip=camera.clip, fps=camera.fps)

    async def _clip(self, camera: Camera) -> Clip | None:
        """Read in a thread, once for all cameras that show it."""
        path = self._folder / camera.clip
        stamp = file_stamp(path)
        if path not in self._clips or self._clips[path][0] != stamp:
            try:
                self._clips[path] = (stamp, await asyncio.to_thread(read_clip, path))
            except ClipUnreadable as error:
                log.warning("clip.unreadable", camera=camera.name, error=str(error))
                return None
        clip = self._clips[path][1]
        return clip if camera.fps is None else retimed(clip, camera.fps)


def _same(one: Camera, other: Camera) -> bool:
    return msgspec.structs.replace(one, fault="none") == msgspec.structs.replace(
        other, fault="none"
    )


def file_stamp(path: Path) -> FileStamp:
    """Differs once the file was replaced or written."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


async def follow(path: Path, seen: FileStamp, cameras: Cameras) -> None:
    """A file that can't be read leaves everything as it was."""
    while True:
        await asyncio.sleep(POLL_S)
        stamp = file_stamp(path)
        if stamp == seen:
            continue
        seen = stamp
        try:
            await cameras.become(read_cameras(path))
        except CamerasUnreadable as error:
            log.warning("cameras.unreadable", error=str(error))


class CertificateUnreadable(Exception):
    """The file holds no certificate and its key."""


def tls(certificate: Path | None) -> ssl.SSLContext | None:
    """Raises CertificateUnreadable."""
    if certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate)
    except OSError as error:
        raise CertificateUnreadable(f"{certificate}: expected a certificate and its key") from error
    return context


async def serve(host: str, port: int, path: Path, secured: ssl.SSLContext | None) -> None:
    """Until SIGTERM or SIGINT. The port opens once all clips are read."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    cameras = Cameras(path.parent)
    seen = file_stamp(path)
    await cameras.become(read_cameras(path))
    server = await asyncio.start_server(
        cameras.accept, host, port, backlog=PENDING_CONNECTIONS, ssl=secured
    )
    log.info("server.started", host=host, port=server.sockets[0].getsockname()[1])
    async with asyncio.TaskGroup() as tasks:
        following = tasks.create_task(follow(path, seen, cameras))
        await stop.wait()
        following.cancel()
    server.close()
    await cameras.close()


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m deploy.local.camera", description="Simulated RTSP cameras."
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, required=True, help="0 picks a free one")
    parser.add_argument("--cameras", type=Path, required=True, help="the cameras file (JSON)")
    parser.add_argument(
        "--certificate", type=Path, help="PEM of a certificate and its key: serve over TLS"
    )
    return parser.parse_args(arguments)


def configure_logging() -> None:
    """JSON lines on stderr, as the services write them."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def main() -> int:
    arguments = parse_arguments()
    configure_logging()
    try:
        secured = tls(arguments.certificate)
        asyncio.run(serve(arguments.host, arguments.port, arguments.cameras, secured))
    except (CamerasUnreadable, CertificateUnreadable) as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(f"{arguments.host}:{arguments.port}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
