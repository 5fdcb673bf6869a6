"""Routes: a picture in, what is in it out; and the Open Inference Protocol's facts."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus
from importlib.metadata import version
from time import monotonic
from typing import Annotated, Any

import structlog
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from services.ai.answers import (
    Answer,
    Asked,
    BoundingBox,
    Detection,
    FrameSize,
    ModelFacts,
    ServerFacts,
    TensorFacts,
    UsedModel,
)
from services.ai.body import (
    BodyTooLarge,
    BodyTooSlow,
    MalformedBody,
    UnsupportedType,
    discard,
    jpeg_in,
    read_body,
)
from services.ai.decode import UnusablePicture
from services.ai.detect import Detector, Sighting
from services.ai.metrics import DETECT_TIME, DETECTIONS, PICTURES, QUEUE_TIME, QUEUED
from services.ai.problems import problem
from services.ai.turns import QueueFull, Turns

log = structlog.get_logger()

RETRY_AFTER_S = 1
DATATYPES = {"tensor(float)": "FP32", "tensor(uint8)": "UINT8"}
"""ONNX Runtime's names, and the protocol's."""

PICTURE_BODY: dict[str, Any] = {  # Any: a piece of OpenAPI
    "requestBody": {
        "required": True,
        "content": {
            "image/jpeg": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["image"],
                    "properties": {"image": {"type": "string", "format": "binary"}},
                }
            },
        },
    }
}


@dataclass(frozen=True)
class Limits:
    """How much a client may ask of us."""

    workers: int
    queue_size: int
    body_bytes: int
    body_seconds: float


class Ending(Exception):
    """This process ends, and has waited for the rest of the request as long as it may."""


class UnknownModel(LookupError):
    """No model of that name is served here."""


@dataclass(frozen=True)
class Refusal:
    """What an exception of ours means to a client, and what it counts as."""

    status: HTTPStatus
    slug: str
    outcome: str = "refused"


REFUSALS: dict[type[Exception], Refusal] = {
    UnusablePicture: Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, "unusable-picture", "rejected"),
    MalformedBody: Refusal(HTTPStatus.BAD_REQUEST, "malformed-body"),
    UnsupportedType: Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-type"),
    BodyTooLarge: Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "body-too-large"),
    BodyTooSlow: Refusal(HTTPStatus.REQUEST_TIMEOUT, "body-too-slow"),
    UnknownModel: Refusal(HTTPStatus.NOT_FOUND, "unknown-model"),
    Ending: Refusal(HTTPStatus.SERVICE_UNAVAILABLE, "ending", "gone"),
    QueueFull: Refusal(HTTPStatus.TOO_MANY_REQUESTS, "queue-full", "busy"),
    ClientDisconnect: Refusal(HTTPStatus.BAD_REQUEST, "client-gone", "gone"),  # nobody reads it
}


def create_app(detector: Detector, limits: Limits) -> FastAPI:
    turns = Turns(limits.workers, limits.queue_size)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        turns.close()

    app = FastAPI(title="Sightlog AI", version=version("sightlog"), lifespan=lifespan)
    add_refusals(app)
    add_health(app)
    add_protocol(app, detector)
    add_detect(app, detector, turns, limits)
    return app


def add_detect(app: FastAPI, detector: Detector, turns: Turns, limits: Limits) -> None:
    async def see(request: Request, min_confidence: float | None) -> Sighting:
        """Waits its turn; a client that has gone by then costs nothing more."""
        content_type = request.headers.get("content-type", "")
        async with aclosing(request.stream()) as chunks:
            body = await read_body(chunks, limits.body_bytes, limits.body_seconds)
        jpeg = jpeg_in(body, content_type)
        asked_at = monotonic()
        async with turns.turn():
            QUEUE_TIME.observe(monotonic() - asked_at)
            if await request.is_disconnected():
                raise ClientDisconnect
            with DETECT_TIME.time():
                return await turns.run(detector.detect, jpeg, min_confidence)

    @app.post("/detect", response_model=Answer, openapi_extra=PICTURE_BODY)
    async def detect_objects(request: Request, asked: Annotated[Asked, Query()]) -> Response:
        """What is in one JPEG. Boxes are in its own pixels, best first."""
        known(detector, asked.model)
        try:
            with turns.place(), QUEUED.track_inprogress():
                sighting = await see(request, asked.min_confidence)
        except QueueFull:
            await discard(request.stream(), limits.body_seconds)  # or it sees a reset, not our 429
            raise
        except asyncio.CancelledError:  # the server's, at the end of its grace
            raise Ending from None
        PICTURES.labels("ok").inc()
        DETECTIONS.inc(len(sighting.boxes))
        return json_of(answer(detector, sighting))


def add_protocol(app: FastAPI, detector: Detector) -> None:
    """Open Inference Protocol v2, without `infer` for now."""

    @app.get("/v2")
    async def server() -> ServerFacts:
        return ServerFacts(name="sightlog-ai", version=app.version, extensions=[])

    @app.get("/v2/health/live")
    async def server_live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready")
    async def server_ready() -> dict[str, bool]:
        return {"ready": True}

    @app.get("/v2/models/{name}")
    async def model(name: str) -> ModelFacts:
        known(detector, name)
        return model_facts(detector)

    @app.get("/v2/models/{name}/ready")
    async def model_ready(name: str) -> dict[str, str | bool]:
        known(detector, name)
        return {"name": name, "ready": True}


def add_health(app: FastAPI) -> None:
    """Nothing is served before the model is loaded and has run once: who answers is ready."""

    @app.get("/health/live")
    @app.get("/health/ready")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


def known(detector: Detector, name: str | None) -> None:
    if name not in {None, detector.manifest.name}:
        raise UnknownModel("no model of that name is served here")


def answer(detector: Detector, sighting: Sighting) -> Answer:
    manifest, boxes = detector.manifest, sighting.boxes
    found = zip(boxes.corners.tolist(), boxes.scores.tolist(), boxes.classes.tolist(), strict=True)
    return Answer(
        detections=[
            Detection(
                label=manifest.output.labels[class_id],
                class_id=class_id,
                confidence=round(score, 4),
                bounding_box=bounding_box(corners),
            )
            for corners, score, class_id in found
        ],
        model=UsedModel(name=manifest.name, version=manifest.version, digest=manifest.digest),
        frame=FrameSize(width=sighting.width, height=sighting.height),
    )


def bounding_box(corners: list[float]) -> BoundingBox:
    left, top, right, bottom = (round(side, 2) for side in corners)
    return BoundingBox(x=left, y=top, width=round(right - left, 2), height=round(bottom - top, 2))


def model_facts(detector: Detector) -> ModelFacts:
    manifest = detector.manifest
    inputs, outputs = (
        [TensorFacts(name=side.name, datatype=DATATYPES[side.kind], shape=list(side.shape))]
        for side in (detector.model.input, detector.model.output)
    )
    return ModelFacts(
        name=manifest.name,
        versions=[manifest.version],
        platform="onnxruntime_onnx",
        inputs=inputs,
        outputs=outputs,
    )


def json_of(answered: Answer) -> Response:
    """Made here once, as it is already valid; FastAPI would check and copy every box again."""
    return Response(answered.model_dump_json(by_alias=True), media_type="application/json")


def add_refusals(app: FastAPI) -> None:
    for kind in REFUSALS:
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(RequestValidationError, misasked)
    app.add_exception_handler(HTTPException, not_served)
    app.add_exception_handler(Exception, failed)


async def refused(request: Request, error: Exception) -> Response:
    refusal = REFUSALS[type(error)]
    PICTURES.labels(refusal.outcome).inc()
    log.debug("picture.refused", why=str(error), slug=refusal.slug, **trace(request))
    headers = {"Retry-After": str(RETRY_AFTER_S)} if isinstance(error, QueueFull) else None
    detail = str(error) or refusal.status.description
    return problem(refusal.status, refusal.slug, detail, request.url.path, headers=headers)


async def misasked(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 -- registered for it alone
    errors = [
        {"pointer": "/" + "/".join(str(part) for part in wrong["loc"]), "message": wrong["msg"]}
        for wrong in error.errors()[:10]
    ]
    PICTURES.labels("refused").inc()
    status = HTTPStatus.UNPROCESSABLE_ENTITY
    return problem(status, "invalid-parameters", "see errors", request.url.path, errors)


async def not_served(request: Request, error: Exception) -> Response:
    """No such route or method."""
    assert isinstance(error, HTTPException)  # noqa: S101 -- registered for it alone
    status = HTTPStatus(error.status_code)
    slug = status.phrase.lower().replace(" ", "-")
    detail = status.description
    return problem(status, slug, detail, request.url.path, headers=error.headers)


async def failed(request: Request, error: Exception) -> Response:
    """A fault of ours; uvicorn logs the traceback, the client learns nothing of it."""
    PICTURES.labels("failed").inc()
    log.error("request.failed", path=request.url.path, error=type(error).__name__, **trace(request))
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return problem(status, "internal-error", "the request failed here", request.url.path)


def trace(request: Request) -> dict[str, str]:
    """What joins a line of ours with the frame it is about."""
    traceparent = request.headers.get("traceparent")
    return {} if traceparent is None else {"traceparent": traceparent[:64]}
