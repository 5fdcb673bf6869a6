"""One reader's playing: a clip without end, paced by the clock, never waiting for the reader."""

import asyncio
import itertools
import os
import secrets
import time
from collections.abc import Iterator

from deploy.local.camera_fault import NO_FAULT, Fault
from deploy.local.rtsp_media import AccessUnit, Clip
from deploy.local.rtsp_packet import CLOCK_HZ, Layout, Sent, sender_report, spoil, stamp

BACKLOG_LIMIT_BYTES = 2**20
LATENESS_LIMIT_S = 1.0
REPORT_EVERY_S = 5.0


class Playback:
    """Sends a clip's access units to one transport, and sender reports between them.

    A reader that does not keep up loses whole access units up to the next key frame once
    BACKLOG_LIMIT_BYTES wait for it; so does everyone after this process was stopped for a while.
    RTP timestamps follow the monotonic clock from the first PLAY on, also over a pause, unless a
    fault shifts them.
    """

    def __init__(
        self,
        clip: Clip,
        transport: asyncio.WriteTransport,
        channels: tuple[int, int],
        lead: int = 0,  # ticks, so that cameras of one clip show different scenes
    ):
        self.channels = channels
        self.lost = 0
        self.sent = Sent()
        self.has_died = False
        self._clip = clip
        self._lead = lead
        self._transport = transport
        self._fault = NO_FAULT
        self._source = secrets.randbits(32)
        self._first_sequence = secrets.randbits(16)
        self._first_timestamp = secrets.randbits(32)
        self._origin = time.monotonic()
        self._cued = (0, 0)
        self._awaits_key_frame = False
        self._next_report_at = 0.0
        self._task: asyncio.Task[None] | None = None

    @property
    def is_playing(self) -> bool:
        return self._task is not None

    def suffer(self, fault: Fault) -> None:
        """From now on; the next sender report comes at once, since it may be the fault."""
        self._fault = fault
        self._next_report_at = 0.0
        if fault.wraps_after_s is not None:
            wraps_at_s = self._elapsed_s() + fault.wraps_after_s
            self._first_timestamp = -round(wraps_at_s * CLOCK_HZ)

    def cue(self) -> tuple[int, int]:
        """Picks the key frame to begin with; answers its sequence number and RTP timestamp.

        All readers of a camera are shown about the same scene, each from a key frame on, at once.
        """
        index = self._clip.key_frame_before(int(time.monotonic() * CLOCK_HZ) + self._lead)
        unit = self._clip.units[index]
        began = int(self._elapsed_s() * CLOCK_HZ) - unit.sent_at
        self._cued = (index, began)
        return self._sequence(), self._timestamp(began + unit.captured_at)

    def start(self) -> None:
        """From the cue."""
        self._task = asyncio.create_task(self._play(), name="playback")

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _play(self) -> None:
        started = self._elapsed_s()
        for began, unit in self._schedule():
            wait_s = (began + unit.sent_at) / CLOCK_HZ - self._elapsed_s()
            if wait_s > -LATENESS_LIMIT_S:
                await asyncio.sleep(max(wait_s, 0.0))
            if self._dies(self._elapsed_s() - started):
                return
            self._offer(unit, began, is_late=wait_s <= -LATENESS_LIMIT_S)

    def _schedule(self) -> Iterator[tuple[int, AccessUnit]]:
        """For ever, each unit with the tick at which its round of the clip began."""
        index, began = self._cued
        yield from ((began, unit) for unit in self._clip.units[index:])
        for turn in itertools.count(1):
            again = began + turn * self._clip.period
            yield from ((again, unit) for unit in self._clip.units)

    def _dies(self, played_s: float) -> bool:
        limit_s = self._fault.dies_after_s
        self.has_died = limit_s is not None and played_s >= limit_s
        return self.has_died

    def _offer(self, unit: AccessUnit, began: int, *, is_late: bool) -> None:
        if self._drops(unit, is_late):
            self.lost += 1
            return
        self._report_when_due()
        layout = self._garbled(unit.layout)
        timestamp = self._timestamp(began + unit.captured_at)
        media, _ = self.channels
        self._transport.write(stamp(layout, media, self._sequence(), timestamp, self._source))
        self.sent.count(layout)

    def _drops(self, unit: AccessUnit, is_late: bool) -> bool:
        backlog = self._transport.get_write_buffer_size()
        is_blocked = is_late or self._fault.is_silent or backlog > BACKLOG_LIMIT_BYTES
        self._awaits_key_frame = is_blocked or (self._awaits_key_frame and not unit.is_key)
        return self._awaits_key_frame

    def _garbled(self, layout: Layout) -> Layout:
        return spoil(layout, os.urandom(len(layout.data))) if self._fault.is_garbled else layout

    def _report_when_due(self) -> None:
        elapsed_s = self._elapsed_s()
        if elapsed_s < self._next_report_at:
            return
        self._next_report_at = elapsed_s + REPORT_EVERY_S
        _, control = self.channels
        wall_s = time.time() + self._fault.clock_shift_s
        timestamp = self._timestamp(int(elapsed_s * CLOCK_HZ))
        self._transport.write(sender_report(control, self._source, wall_s, timestamp, self.sent))

    def _sequence(self) -> int:
        return self._first_sequence + self.sent.packets & 0xFFFF

    def _timestamp(self, tick: int) -> int:
        jump = round(self._fault.jump_s * CLOCK_HZ)
        return self._first_timestamp + tick + jump & 0xFFFFFFFF

    def _elapsed_s(self) -> float:
        return time.monotonic() - self._origin
