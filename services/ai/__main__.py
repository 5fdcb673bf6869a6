"""python -m services.ai [check MODEL.onnx --image X --out Y]"""

import sys

import structlog
import uvicorn

from services.ai.app import Limits, create_app
from services.ai.check import check
from services.ai.detect import Detector, ManifestRefused, ModelRefused
from services.ai.settings import Settings
from services.process.logging import configure_logging
from services.process.settings import WRONG_SETTING, load
from services.process.stop import stop_on_signal

log = structlog.get_logger()

GRACE_S = 6
"""What requests in flight get at SIGTERM; the whole process has 10 s."""


def main() -> None:
    if sys.argv[1:2] == ["check"]:
        sys.exit(check(sys.argv[2:]))
    settings = load(Settings)
    configure_logging("ai", settings.log_level)
    serve(settings, loaded(settings))


def loaded(settings: Settings) -> Detector:
    """Or exit status 2 with the name of the setting that is wrong."""
    model, threads = settings.model_path, settings.intra_op_threads
    try:
        detector = Detector.load(model, settings.provider, threads, settings.max_pixels)
    except ManifestRefused as error:
        sys.stderr.write(f"setting AI_MODEL_PATH: expected a model and its manifest: {error}\n")
        sys.exit(WRONG_SETTING)
    except ModelRefused as error:
        name = "AI_PROVIDER" if settings.provider == "cuda" else "AI_MODEL_PATH"
        sys.stderr.write(f"setting {name}: expected what can be run here: {error}\n")
        sys.exit(WRONG_SETTING)
    if detector.model.fell_back:
        log.warning("provider.fell_back", wanted="cuda", used=detector.model.provider)
    return detector


def serve(settings: Settings, detector: Detector) -> None:
    """Until SIGTERM or SIGINT; requests in flight are answered first."""
    limits = Limits(
        settings.threads, settings.queue_size, settings.max_body_bytes, settings.body_seconds
    )
    manifest = detector.manifest
    log.info(
        "model.loaded",
        model=manifest.name,
        version=manifest.version,
        digest=manifest.digest,
        provider=detector.model.provider,
        workers=limits.workers,
    )
    stop_on_signal()  # uvicorn raises the signal again when it is done; by then it ends nothing
    uvicorn.run(
        create_app(detector, limits),
        host=settings.http_host,
        port=settings.http_port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
    )


if __name__ == "__main__":
    main()
