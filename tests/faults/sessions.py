"""Postgres ends everybody's sessions again and again."""

import threading

import psycopg

from tests.faults.site import Site

PAUSE_S = 0.5
END_OTHERS = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
)


class EndSessions:
    def __init__(self, site: Site, target: str) -> None:
        self.target = target
        self._database_url = site.stack.database_url
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="sessions", daemon=True)

    def begin(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._over.set()
        self._thread.join()

    def _go_on(self) -> None:
        while not self._over.wait(PAUSE_S):
            try:
                with psycopg.connect(self._database_url, connect_timeout=2) as connection:
                    connection.execute(END_OTHERS)
            except psycopg.OperationalError:
                continue  # the server itself may be under another fault
