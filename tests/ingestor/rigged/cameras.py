"""What a rigged camera's process runs."""

import json
import re
import socket
from dataclasses import dataclass
from pathlib import Path

from services.ingestor.link import receive_down
from services.ingestor.locate import addresses


@dataclass(frozen=True)
class Names:
    """Each name's answers, the n-th to its n-th look-up; the last one stays, null: it is unknown.
    All look-ups, of whichever process, stand in a second file. Other names are looked up truly."""

    file: Path

    @property
    def asked(self) -> Path:
        return self.file.with_suffix(".asked")

    def __call__(self, host: str, port: int) -> list[str]:
        names = json.loads(self.file.read_text())
        if host not in names:
            return addresses(host, port)
        answers = names[host]
        with self.asked.open("a") as asked:
            asked.write(f"{host}\n")
        turn = self.asked.read_text().split().count(host)
        answer = answers[min(turn, len(answers)) - 1]
        if answer is None:
            raise OSError("nobody knows it")
        return list(answer)


def burn(link: socket.socket) -> None:
    """One of the two cores, in C, and never lets another thread of its process run."""
    receive_down(link)
    re.match("(a+)+$", "a" * 64 + "b")
