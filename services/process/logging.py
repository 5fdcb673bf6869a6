"""One JSON object a line, on stderr; what libraries log through stdlib comes out the same."""

import logging
import sys

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from services.process.quiet import LIBRARIES, OncePerSecond


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
    formatter = structlog.stdlib.ProcessorFormatter
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
    handler = logging.StreamHandler(sys.stderr)
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
