"""The cameras as they are served now, and the RTSP conversation with each reader."""

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Callable, Mapping
from zlib import crc32

import structlog

from deploy.local import rtsp
from deploy.local.camera_fault import Fault, parse_fault
from deploy.local.camera_list import Camera
from deploy.local.rtsp import MalformedRequest, Reply, Request
from deploy.local.rtsp_auth import Account, challenges, is_proof
from deploy.local.rtsp_media import Clip, session_description
from deploy.local.rtsp_playback import Playback

METHODS = "OPTIONS, DESCRIBE, SETUP, PLAY, PAUSE, GET_PARAMETER, TEARDOWN"
SESSION_TIMEOUT_S = 60
FLUSH_TIMEOUT_S = 2
SEND_BUFFER_BYTES = 256 * 1024  # as small as a camera's, so that a slow reader isn't far behind
LINGER_NOT = struct.pack("ii", 1, 0)

log = structlog.get_logger()


class ServedCamera:
    """A camera, its clip (None while it can't be read), its fault and its readers."""

    def __init__(self, camera: Camera, clip: Clip | None):
        self.camera = camera
        self.clip = clip
        self.fault = parse_fault(camera.fault)
        self.connections: set[Connection] = set()

    def suffer(self, camera: Camera) -> None:
        """Takes over the fault of `camera`, which is the same one otherwise."""
        self.camera, self.fault = camera, parse_fault(camera.fault)
        for connection in list(self.connections):
            connection.suffer(self.fault)

    def disconnect(self) -> None:
        for connection in list(self.connections):
            connection.abort()


class Connection:
    """One reader's connection, for one camera: the first existing one it names."""

    def __init__(
        self,
        cameras: Mapping[str, ServedCamera],
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ):
        self._cameras = cameras
        self._reader = reader
        self._writer = writer
        self._served: ServedCamera | None = None
        self._playback: Playback | None = None
        self._nonce = secrets.token_hex(16)
        self._session = secrets.token_hex(8)
        writer.get_extra_info("socket").setsockopt(
            socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES
        )

    async def serve(self) -> None:
        """Until either side ends it."""
        try:
            while not self._writer.is_closing():
                await self._serve_one()
        except MalformedRequest:
            self._writer.write(Reply(400).encode("0"))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the reader left
        finally:
            self.close()
            await self._flush()

    def suffer(self, fault: Fault) -> None:
        if fault.is_reset:
            self._reset()
        elif self._playback is not None:
            self._playback.suffer(fault)

    def close(self) -> None:
        playback, self._playback = self._playback, None
        if playback is not None and self._served is not None:
            playback.stop()
            sent, lost = playback.sent.packets, playback.lost
            log.info("reader.left", camera=self._served.camera.name, packets=sent, lost=lost)
        if self._served is not None:
            self._served.connections.discard(self)
        self._writer.close()

    def abort(self) -> None:
        """At once, whatever still waits to be sent."""
        self.close()
        self._writer.transport.abort()

    async def _flush(self) -> None:
        """The last reply to a reader that reads; no memory for one that does not."""
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(FLUSH_TIMEOUT_S):
                await self._writer.wait_closed()
        self._writer.transport.abort()

    def _reset(self) -> None:
        transport_socket = self._writer.get_extra_info("socket")
        transport_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
        self._writer.transport.abort()

    async def _serve_one(self) -> None:
        try:
            async with asyncio.timeout(SESSION_TIMEOUT_S):
                request = await rtsp.read_request(self._reader)
                self._join(request.url)
                if not (self._writer.is_closing() or self._is_mute()):
                    await self._answer(request)
        except TimeoutError:
            if not self._is_mute():
                self.close()

    def _join(self, url: str) -> None:
        served = self._cameras.get(rtsp.path_of(url)[0])
        if served is None or self._served is not None:
            return
        self._served = served
        served.connections.add(self)
        self.suffer(served.fault)

    def _is_mute(self) -> bool:
        has_died = self._playback is not None and self._playback.has_died
        return has_died or (self._served is not None and self._served.fault.is_silent)

    async def _answer(self, request: Request) -> None:
        reply = self._reply(request)
        self._writer.write(reply.encode(request.headers["cseq"]))
        if reply.status == 200:
            self._follow_up(request.method)
        await self._writer.drain()

    def _follow_up(self, method: str) -> None:
        """What may only happen after the reply is on its way."""
        if method == "TEARDOWN":
            self.close()
        elif method == "PLAY" and self._playback is not None and not self._playback.is_playing:
            self._playback.start()

    def _reply(self, request: Request) -> Reply:
        if request.version != "RTSP/1.0":
            return Reply(505)
        if request.method == "OPTIONS":
            return Reply(200, (("Public", METHODS),))
        served = self._cameras.get(rtsp.path_of(request.url)[0])
        if served is None or served is not self._served:
            return Reply(404)
        if served.fault.location:
            return Reply(302, (("Location", served.fault.location),))
        return self._refusal(request, served.camera) or self._perform(request, served)

    def _refusal(self, request: Request, camera: Camera) -> Reply | None:
        if camera.username is not None and camera.ha1 is not None:
            account = Account(camera.username, camera.ha1, camera.schemes, self._nonce)
            authorization = request.headers.get("authorization", "")
            if not is_proof(authorization, request.method, account):
                return Reply(401, challenges(account))
        session = request.headers.get("session", self._session).partition(";")[0]
        return Reply(454) if session != self._session else None

    def _perform(self, request: Request, served: ServedCamera) -> Reply:
        if served.clip is None:
            return Reply(503)
        if request.method == "DESCRIBE":
            return _describe(request, served.camera, served.clip)
        if request.method == "SETUP":
            return self._set_up(request, served.clip, lead=crc32(served.camera.name.encode()))
        perform = PERFORMERS.get(request.method)
        if perform is None:
            return Reply(501)
        return perform(self, request, self._playback) if self._playback else Reply(455)

    def _set_up(self, request: Request, clip: Clip, lead: int) -> Reply:
        if rtsp.path_of(request.url)[1] not in ("", rtsp.CONTROL):
            return Reply(404)
        if self._playback is not None and self._playback.is_playing:
            return Reply(455)
        channels = rtsp.offered_channels(request.headers.get("transport", ""))
        if channels is None:
            return Reply(461)
        self._playback = Playback(clip, self._writer.transport, channels, lead)
        if self._served is not None:
            self._playback.suffer(self._served.fault)
        transport = f"RTP/AVP/TCP;unicast;interleaved={channels[0]}-{channels[1]}"
        return Reply(200, (("Transport", transport), *self._session_header()))

    def _play(self, request: Request, playback: Playback) -> Reply:
        if playback.is_playing:
            return Reply(200, self._session_header())
        sequence, timestamp = playback.cue()
        track = f"{rtsp.base_of(request.url)}{rtsp.CONTROL}"
        info = f"url={track};seq={sequence};rtptime={timestamp}"
        return Reply(200, (("Range", "npt=now-"), ("RTP-Info", info), *self._session_header()))

    def _pause(self, request: Request, playback: Playback) -> Reply:
        playback.stop()
        return Reply(200, self._session_header())

    def _acknowledge(self, request: Request, playback: Playback) -> Reply:
        return Reply(200, self._session_header())

    def _session_header(self) -> tuple[tuple[str, str]]:
        return (("Session", f"{self._session};timeout={SESSION_TIMEOUT_S}"),)


PERFORMERS: dict[str, Callable[[Connection, Request, Playback], Reply]] = {
    "PLAY": Connection._play,
    "PAUSE": Connection._pause,
    "GET_PARAMETER": Connection._acknowledge,
    "TEARDOWN": Connection._acknowledge,
}


def _describe(request: Request, camera: Camera, clip: Clip) -> Reply:
    base = ("Content-Base", rtsp.base_of(request.url))
    body = session_description(clip, camera.name)
    return Reply(200, (base, ("Content-Type", "application/sdp")), body)
