"""One JSON object a line, on stderr; what libraries log through stdlib comes out the same.

So does what nothing caught, and what Python warns of. No line leaves with a secret in it.
"""

import json
import logging
import os
import sys
import threading
from types import TracebackType
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger
from typing_extensions import override

from services.process.quiet import LIBRARIES, OncePerSecond
from services.process.redact import redact_json

log = structlog.get_logger()


class _Formatter(structlog.stdlib.ProcessorFormatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        """The last that sees the line, its tracebacks included."""
        return redact_json(super().format(record))


class _Stderr(logging.StreamHandler[TextIO]):
    @override
    def handleError(self, record: logging.LogRecord) -> None:
        """Instead of the message and its arguments as they are."""
        line = {"event": "line.unwritable", "level": "error", "logger": record.name}
        sys.stderr.write(json.dumps(line) + "\n")


def configure_logging(service: str, level: str) -> None:
    """Lines carry `service`, `level`, `timestamp` (UTC) and `event` (`noun.past_tense`)."""

    def name_service(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        return event

    def drop_colour(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event.pop("color_message", None)  # uvicorn's, for terminals
        return event

    shared: list[Processor] = [
        name_service,
        structlog.stdlib.ExtraAdder(),
        drop_colour,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    formatter = _Formatter
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            *shared,
            formatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = _Stderr(sys.stderr)
    handler.setFormatter(
        formatter(
            foreign_pre_chain=shared,
            processors=[
                formatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    handler.addFilter(OncePerSecond())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    for chatty in (*LIBRARIES, "asyncio", "httpcore", "httpx", "urllib3"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _log_crash
    sys.unraisablehook = _log_unraisable
    threading.excepthook = _log_thread


def _log_crash(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    """It ends here: taking apart what is left half open may hang, as consumers do that nobody
    closed."""
    log.critical("process.crashed", exc_info=(kind, error, traceback))
    logging.shutdown()
    os._exit(1)


def _log_thread(died: threading.ExceptHookArgs) -> None:
    log.error(
        "thread.died", thread=died.thread.name if died.thread else "", exc_info=died.exc_value
    )


def _log_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
    log.error("exception.ignored", where=unraisable.err_msg, exc_info=unraisable.exc_value)
