"""Which service processes are up, by their own last words."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import datetime

from schemas.messages import Instance, now

SILENT_S = 30.0  # each speaks every 10 s: who was silent for so long is gone
INSTANCES_KEPT = 1000  # who was silent longest is forgotten first


class Instances:
    """Written by the thread that follows the topics, read by any."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._heard: OrderedDict[str, tuple[float, Instance]] = OrderedDict()  # the newest last

    def note(self, instance: Instance, appended: datetime) -> None:
        """`appended`: when the broker got it; what is read late is as old as it is, by whatever
        clock the instance has itself."""
        age_s = max(0.0, (now() - appended).total_seconds())
        with self._lock:
            self._heard[instance.instance] = self._monotonic() - age_s, instance
            self._heard.move_to_end(instance.instance)
            if len(self._heard) > INSTANCES_KEPT:
                self._heard.popitem(last=False)

    def last(self, name: str) -> Instance | None:
        """Its last word, also where it is gone."""
        with self._lock:
            found = self._heard.get(name)
        return found[1] if found else None

    def alive(self, service: str = "ingestor") -> list[Instance]:
        """Who spoke last comes first."""
        since = self._monotonic() - SILENT_S
        with self._lock:
            heard = [*reversed(self._heard.values())]
        return [one for at, one in heard if at >= since and one.service == service]
