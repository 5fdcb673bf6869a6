"""What can be asked of a stack that runs, from another process."""

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from deploy.local.camera import Camera
from deploy.local.cameras import add_cameras, set_fault
from deploy.local.place import Described, NoStack, Place
from deploy.local.ports import answers
from deploy.local.service import says_ready
from deploy.local.up import Exit

POLL_S = 0.1
STOP_TIMEOUT_S = 120.0
CAMERAS_TIMEOUT_S = 10.0


class NoSuchProcess(ValueError):
    """No part or replica of that name."""


def status(place: Place) -> tuple[Described, Exit]:
    """`stack.json` without its secret, and whether each process does its work now. NoStack."""
    place.supervisor()
    described = place.described()
    everyone = described["services"] + described["parts"]
    for process in everyone:
        process["healthy"] = is_healthy(process)
    described["healthy"] = described["ready"] and all(one["healthy"] for one in everyone)
    del described["apiKey"]
    return described, Exit.OK if described["healthy"] else Exit.UNHEALTHY


def print_status(described: Described) -> None:
    """For a person."""
    for part in described["parts"]:
        print(f"{part['name']:<12} {mood(part):<8} pid {part['pid']} port {part['port']}")
    for service in described["services"]:
        name = name_of(service)
        where = f"pid {service['pid']} port {service['httpPort']} restarts {service['restarts']}"
        print(f"{name:<12} {mood(service):<8} {where}")
    print(described["gatewayUrl"] or described["kafkaBootstrapServers"])


def mood(one: dict[str, Any]) -> str:
    return "ready" if one["healthy"] else "NOT READY"


def stop(place: Place) -> Exit:
    """Ask the supervisor to end, and wait until it has."""
    os.kill(place.supervisor(), signal.SIGTERM)
    return Exit.OK if wait_for(lambda: not runs(place), STOP_TIMEOUT_S) else Exit.UNHEALTHY


def runs(place: Place) -> bool:
    try:
        place.supervisor()
    except NoStack:
        return False
    return True


def scale(place: Place, wished: dict[str, int], timeout_s: float) -> Exit:
    """Ask for so many replicas, and wait until exactly those are ready."""
    place.supervisor()
    place.want(wished)

    def is_so() -> bool:
        services = place.described()["services"]
        return all(ready_replicas(services, kind) == count for kind, count in wished.items())

    return Exit.OK if wait_for(is_so, timeout_s) else Exit.NOT_READY


def hold(place: Place, name: str, signal_: str, timeout_s: float) -> Exit:
    """End a part or a replica of a service, and wait until it has ended: it stays away."""
    place.supervisor()
    process_named(place, name)
    place.hold(name, signal_)

    def is_away() -> bool:
        return name in place.described()["held"] and process_named(place, name)["pid"] is None

    return Exit.OK if wait_for(is_away, timeout_s) else Exit.NOT_READY


def release(place: Place, name: str, timeout_s: float) -> Exit:
    """Let it start again, and wait until it does its work."""
    place.supervisor()
    process_named(place, name)
    place.release(name)

    def is_back() -> bool:
        return name not in place.described()["held"] and is_healthy(process_named(place, name))

    return Exit.OK if wait_for(is_back, timeout_s) else Exit.NOT_READY


def process_named(place: Place, name: str) -> dict[str, Any]:
    """What `stack.json` says of `kafka` or `detector.2`. Raises NoSuchProcess."""
    described = place.described()
    for process in (*described["parts"], *described["services"]):
        if name_of(process) == name:
            return dict(process)
    raise NoSuchProcess(f"no process {name} in this stack")


def name_of(process: dict[str, Any]) -> str:
    """As its log is named."""
    if "service" not in process:
        return str(process["name"])
    return f"{process['service']}.{process['replica']}"


def is_healthy(process: dict[str, Any]) -> bool:
    if process["pid"] is None:
        return False
    if "service" in process:
        return says_ready(process["service"], process["httpPort"])
    return answers(process["port"])


def ready_replicas(services: list[dict[str, Any]], kind: str) -> int:
    """How many there are of the kind; -1 while one of them is not ready."""
    replicas = [service for service in services if service["service"] == kind]
    all_ready = all(says_ready(kind, replica["httpPort"]) for replica in replicas)
    return len(replicas) if all_ready else -1


def show_logs(place: Place, name: str) -> Exit:
    """All of one process's log, or of all replicas of a service."""
    logs = sorted([*place.logs.glob(f"{name}.log"), *place.logs.glob(f"{name}.*.log")])
    if not logs:
        raise NoStack(f"no log of {name} in {place.logs}")
    for log in logs:
        print(f"==> {log}", file=sys.stderr, flush=True)
        with log.open("rb") as file:
            for line in file:
                sys.stdout.buffer.write(line)
    sys.stdout.flush()
    return Exit.OK


def add(place: Place, count: int, like: Camera) -> Exit:
    """Put more cameras up, and print their addresses once they can be reached."""
    place.supervisor()
    names = add_cameras(place.cameras_file, count, like)

    def addresses() -> list[str]:
        return [one["url"] for one in place.described()["cameras"] if one["name"] in names]

    if not wait_for(lambda: len(addresses()) == len(names), CAMERAS_TIMEOUT_S):
        return Exit.NOT_READY
    print("\n".join(addresses()))
    return Exit.OK


def fault(place: Place, name: str, fault: str) -> Exit:
    """Make a camera misbehave, or behave again (`none`)."""
    place.supervisor()
    set_fault(place.cameras_file, name, fault)
    return Exit.OK


def wait_for(condition: Callable[[], bool], timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True
