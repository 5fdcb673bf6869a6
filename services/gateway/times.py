"""Times as REST writes them: RFC 3339, UTC, six digits and Z."""

from datetime import datetime
from typing import Annotated

from pydantic import PlainSerializer, WithJsonSchema

from schemas.messages import wire_time

Time = Annotated[
    datetime,
    PlainSerializer(wire_time, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
