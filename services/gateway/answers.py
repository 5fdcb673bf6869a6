"""What REST says of a stream: what is wanted of it, and what is seen of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from schemas.messages import Reason, SourceFacts, Status, StreamSpec, StreamStatus
from services.gateway.observed import Measured, Observed
from services.gateway.probes import Look
from services.gateway.streams import StreamRow
from services.gateway.times import Time

SILENCE_S = 30.0  # a running stream without a heartbeat for so long is unhealthy
ALL_ROLES = ["detect", "snapshot", "live"]


class Answer(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)


class SourceAnswer(Answer):
    url: str
    roles: list[str]


class SourceFactsAnswer(Answer):
    """What the camera sends."""

    codec: str
    width: int
    height: int
    fps: float | None


class MeasuredAnswer(Answer):
    """Over about the last 30 s, as this gateway saw it."""

    fps: float | None
    detected_fps: float | None
    lag_ms_p50: float | None
    lag_ms_p95: float | None


class StreamAnswer(Answer):
    id: str
    name: str
    rtsp_url: str
    has_credentials: bool
    sources: list[SourceAnswer]
    status: Status
    reason: Reason | None
    message: str | None
    hint: str | None
    detection_enabled: bool
    fps: int | float
    effective_fps: int | float
    frame_width: int | None
    model: str | None
    min_confidence: float | None
    labels: list[str]
    max_frame_age_ms: int
    idle_gate: bool
    trust_source_clock: bool
    verify_tls: bool
    tags: list[str]
    last_heartbeat: Time | None
    since: Time | None
    attempt: int
    next_retry_at: Time | None
    owner: str | None
    epoch: int | None
    generation: int
    observed_generation: int | None
    source: SourceFactsAnswer | None
    measured: MeasuredAnswer | None
    created_at: Time
    updated_at: Time


class UnhealthyAnswer(Answer):
    id: str
    name: str
    reason: str | None
    hint: str | None
    last_heartbeat: Time | None


class HealthAnswer(Answer):
    status: Literal["healthy", "degraded", "unhealthy"]
    total: int
    running: int
    error: int
    unhealthy: list[UnhealthyAnswer]
    checked_at: Time


class TransitionAnswer(Answer):
    """A status that the stream once had."""

    status: Status
    reason: Reason | None
    message: str | None
    hint: str | None
    since: Time
    attempt: int
    owner: str | None
    epoch: int
    observed_generation: int


class ProbeAnswer(Answer):
    """What is at an address: `source` and `thumbnail`, or the `reason` why nothing can be seen."""

    ok: bool
    source: SourceFactsAnswer | None
    thumbnail: str | None = Field(
        description="its first picture, at most 640 wide: `data:image/jpeg;base64,...`"
    )
    reason: Reason | None
    message: str | None
    hint: str | None
    took_ms: int
    instance: str = Field(description="the ingestor that looked: another may reach other places")


def probe_answer(look: Look, took_ms: int) -> ProbeAnswer:
    found = look.found
    return ProbeAnswer(
        ok=found.source is not None,
        source=_source(found.source),
        thumbnail=f"data:image/jpeg;base64,{found.jpeg}" if found.jpeg else None,
        reason=found.reason,
        message=found.message,
        hint=found.hint,
        took_ms=took_ms,
        instance=look.instance,
    )


def status_of(spec: StreamSpec, seen: StreamStatus | None) -> Status:
    """What is wanted, against what its owner last said: one word for both."""
    if not spec.running:
        stopped = seen is None or seen.status is Status.STOPPED
        return Status.STOPPED if stopped else Status.STOPPING
    if seen is None:
        return Status.STARTING
    if seen.observed_generation < spec.generation:
        # Not yet acted on: only a camera that runs goes on doing so meanwhile.
        return Status.RUNNING if seen.status is Status.RUNNING else Status.STARTING
    if seen.status is Status.STOPPED and seen.reason is not Reason.ENDED:
        return Status.STARTING  # its owner left; the next one takes it up
    return seen.status


def stream_answer(row: StreamRow, seen: Observed, max_fps: float) -> StreamAnswer:
    spec = row.spec
    observed = seen.status(spec.stream_id)
    heartbeat = seen.heartbeat(spec.stream_id)
    return StreamAnswer(
        **_wanted(spec, max_fps),
        **_observed(spec, observed),
        last_heartbeat=heartbeat.at if heartbeat else None,
        measured=_measured(seen.measured(spec.stream_id)),
        created_at=row.created_at,
        updated_at=row.updated_at,
    )


def _wanted(spec: StreamSpec, max_fps: float) -> dict[str, Any]:
    sources = [SourceAnswer(url=one.url, roles=list(one.roles)) for one in spec.sources]
    return {
        "id": spec.stream_id,
        "name": spec.name,
        "rtsp_url": spec.url,
        "has_credentials": spec.sealed_credentials is not None,
        "sources": sources or [SourceAnswer(url=spec.url, roles=ALL_ROLES)],
        "detection_enabled": spec.detection_enabled,
        "fps": _plain(spec.fps),
        "effective_fps": _plain(min(spec.fps, max_fps)),
        "frame_width": spec.frame_width,
        "model": spec.model,
        "min_confidence": spec.min_confidence,
        "labels": list(spec.labels),
        "max_frame_age_ms": spec.max_frame_age_ms,
        "idle_gate": spec.idle_gate,
        "trust_source_clock": spec.trust_source_clock,
        "verify_tls": spec.verify_tls,
        "tags": list(spec.tags),
        "generation": spec.generation,
    }


def _plain(number: float) -> int | float:
    """JSON knows no difference between 5 and 5.0, but its readers do."""
    return int(number) if float(number).is_integer() else number


def _observed(spec: StreamSpec, seen: StreamStatus | None) -> dict[str, Any]:
    """The owner's reasons stand only beside the status that they are the reasons for."""
    status = status_of(spec, seen)
    told = seen if seen and seen.status is status else None
    return {
        "status": status,
        "reason": told.reason if told else None,
        "message": told.message if told else None,
        "hint": told.hint if told else None,
        "since": seen.since if seen else None,
        "attempt": seen.attempt if seen else 0,
        "next_retry_at": told.next_retry_at if told else None,
        "owner": seen.owner if seen else None,
        "epoch": seen.epoch if seen else None,
        "observed_generation": seen.observed_generation if seen else None,
        "source": _source(seen.source if seen else None),
    }


def _source(facts: SourceFacts | None) -> SourceFactsAnswer | None:
    if facts is None:
        return None
    return SourceFactsAnswer(
        codec=facts.codec, width=facts.width, height=facts.height, fps=facts.fps
    )


def _measured(measured: Measured | None) -> MeasuredAnswer | None:
    if measured is None:
        return None
    return MeasuredAnswer(
        fps=measured.fps,
        detected_fps=measured.detected_fps,
        lag_ms_p50=measured.lag_ms_p50,
        lag_ms_p95=measured.lag_ms_p95,
    )


def health_answer(rows: Sequence[StreamRow], seen: Observed, at: datetime) -> HealthAnswer:
    statuses = [status_of(row.spec, seen.status(row.spec.stream_id)) for row in rows]
    wanted = [row for row in rows if row.spec.running]
    unhealthy = [found for row in wanted if (found := _unhealthy(row, seen, at)) is not None]
    return HealthAnswer(
        status=_verdict(len(wanted), len(unhealthy)),
        total=len(rows),
        running=statuses.count(Status.RUNNING),
        error=statuses.count(Status.ERROR),
        unhealthy=unhealthy,
        checked_at=at,
    )


def _verdict(wanted: int, unhealthy: int) -> Literal["healthy", "degraded", "unhealthy"]:
    if not unhealthy:
        return "healthy"
    return "degraded" if unhealthy < wanted else "unhealthy"


def _unhealthy(row: StreamRow, seen: Observed, at: datetime) -> UnhealthyAnswer | None:
    """None: it runs, it has ended as it should, or it was started a moment ago."""
    spec = row.spec
    observed, heartbeat = seen.status(spec.stream_id), seen.heartbeat(spec.stream_id)
    status = status_of(spec, observed)
    since_s = min((at - row.updated_at).total_seconds(), seen.silent_s(spec.stream_id))
    silent = since_s > SILENCE_S and status is not Status.STOPPED
    if status is not Status.ERROR and not silent:
        return None
    told = observed if observed and observed.reason and observed.status is status else None
    return UnhealthyAnswer(
        id=spec.stream_id,
        name=spec.name,
        reason=told.reason if told else "NO_HEARTBEAT",
        hint=told.hint if told else "is an ingestor running?",
        last_heartbeat=heartbeat.at if heartbeat else None,
    )
