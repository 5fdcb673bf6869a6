"""Run a whole Sightlog on this machine: no Docker, Java or Postgres has to be there before.

python -m deploy.local up --data DIR --ports auto --cameras 2 --auto-create
"""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from deploy.local import commands
from deploy.local.camera import Camera, CamerasUnreadable, digest_ha1
from deploy.local.cameras import BUNDLED, CLIP, NoSuchCamera
from deploy.local.place import NoStack, NotDescribed, Place
from deploy.local.plan import Wish
from deploy.local.report import explain
from deploy.local.service import SERVICES
from deploy.local.up import Exit, Start, up, up_detached

MOST_REPLICAS = 50
PROCESS_NAMES = "kafka, postgres, cameras, or a replica as detector.1"

Run = Callable[[argparse.Namespace], Exit]


def main(words: Sequence[str] | None = None) -> int:
    arguments = parser().parse_args(words)
    try:
        return int(arguments.run(arguments))
    except NotDescribed as error:
        explain(str(error))
        return Exit.UNHEALTHY
    except NoStack as error:
        explain(str(error))
        return Exit.NO_STACK
    except (NoSuchCamera, CamerasUnreadable, ValueError) as error:
        explain(str(error))
        return Exit.USAGE


def parser() -> argparse.ArgumentParser:
    root = argparse.ArgumentParser(prog="python -m deploy.local", description=__doc__)
    jobs = root.add_subparsers(required=True, metavar="JOB")
    add_up(jobs.add_parser("up", help="start a stack and keep it running"))
    show = job(jobs, "status", "what runs; exit status 1 if a part is unhealthy", run_status)
    show.add_argument("--json", action="store_true", help="for a program")
    job(jobs, "stop", "stop the stack", lambda arguments: commands.stop(arguments.data))
    grow = job(jobs, "scale", "run so many replicas of a service", run_scale)
    grow.add_argument("wished", nargs="+", type=replicas, metavar="SERVICE=N")
    grow.add_argument("--timeout", type=float, default=60.0, help="seconds")
    away = job(jobs, "hold", "end a process and keep it away: try an outage", run_hold)
    away.add_argument("name", metavar="NAME", help=PROCESS_NAMES)
    away.add_argument("--signal", choices=("KILL", "TERM"), default="KILL", help="TERM: ask it to")
    away.add_argument("--timeout", type=float, default=60.0, help="seconds")
    back = job(jobs, "release", "let it come back", run_release)
    back.add_argument("name", metavar="NAME", help=PROCESS_NAMES)
    back.add_argument("--timeout", type=float, default=60.0, help="seconds")
    logs = job(jobs, "logs", "print a log", run_logs)
    logs.add_argument("name", metavar="SERVICE[.N]", help="or kafka, postgres, cameras, supervisor")
    cameras = jobs.add_parser("cameras", help="simulated cameras of a running stack")
    add_camera_jobs(cameras.add_subparsers(required=True, metavar="JOB"))
    return root


def add_up(starting: argparse.ArgumentParser) -> None:
    add_data(starting)
    add = starting.add_argument
    add("--ports", choices=("default", "auto"), default="default", help="auto: any that are free")
    add("--detach", action="store_true", help="return once ready; the stack goes on")
    add("--timeout", type=positive, default=180.0, help="seconds to be ready in, after fetching")
    add("--no-services", action="store_true", help="Kafka, Postgres and cameras only")
    add("--scale", type=replicas, action="append", default=[], metavar="SERVICE=N")
    add("--env", type=setting, action="append", default=[], metavar="K=V", help="for all services")
    add("--cameras", type=int, default=0, metavar="N", help="simulated cameras cam1 to camN")
    add("--clip", type=clip, default=None, metavar="FILE", help="what those cameras show")
    add("--camera-fps", type=positive, default=None, metavar="F", help="their pictures a second")
    add("--auto-create", action="store_true", help="a running stream for each, and for a file")
    add("--fps", type=positive, default=None, help="frames a second of those streams")
    starting.set_defaults(run=run_up)


def add_camera_jobs(jobs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    more = job(jobs, "add", "put cameras up and print their addresses", run_cameras_add)
    more.add_argument("--count", type=count, default=1, metavar="N")
    more.add_argument("--clip", type=clip, default=None, metavar="FILE")
    more.add_argument("--camera-fps", type=positive, default=None, metavar="F")
    more.add_argument("--username", metavar="U")
    more.add_argument("--password-env", metavar="VAR", help="the variable that holds the password")
    fault = job(jobs, "fault", "make a camera misbehave", run_cameras_fault)
    fault.add_argument("name", metavar="NAME")
    kinds = "blackhole|reset|halfopen|garbage|wrap|redirect=URL|clock=+3600|jump=-3|none"
    fault.add_argument("fault", metavar="FAULT", help=kinds)


def job(
    jobs: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    help_: str,
    run: Run,
) -> argparse.ArgumentParser:
    added = jobs.add_parser(name, help=help_)
    add_data(added)
    added.set_defaults(run=run)
    return added


def add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=place, required=True, metavar="DIR", help="the stack's folder"
    )


def run_up(arguments: argparse.Namespace) -> Exit:
    if arguments.detach:
        return up_detached(arguments.data, without_detach(sys.argv[2:]))
    names = [f"cam{number}" for number in range(1, arguments.cameras + 1)]
    wish = Wish(
        auto_ports=arguments.ports == "auto",
        with_services=not arguments.no_services,
        timeout_s=arguments.timeout,
        overrides=dict(arguments.env),
    )
    return up(
        Start(
            place=arguments.data,
            wish=wish,
            scale=dict(arguments.scale),
            cameras=[camera(name, arguments) for name in names],
            auto_create=arguments.auto_create,
            fps=arguments.fps,
        )
    )


def without_detach(words: Sequence[str]) -> list[str]:
    return [word for word in words if word != "--detach"]


def run_status(arguments: argparse.Namespace) -> Exit:
    described, status = commands.status(arguments.data)
    if arguments.json:
        print(json.dumps(described, indent=2))
    else:
        commands.print_status(described)
    return status


def run_scale(arguments: argparse.Namespace) -> Exit:
    return commands.scale(arguments.data, dict(arguments.wished), arguments.timeout)


def run_hold(arguments: argparse.Namespace) -> Exit:
    return commands.hold(arguments.data, arguments.name, arguments.signal, arguments.timeout)


def run_release(arguments: argparse.Namespace) -> Exit:
    return commands.release(arguments.data, arguments.name, arguments.timeout)


def run_logs(arguments: argparse.Namespace) -> Exit:
    return commands.show_logs(arguments.data, arguments.name)


def run_cameras_add(arguments: argparse.Namespace) -> Exit:
    return commands.add(arguments.data, arguments.count, camera("cam1", arguments, secret=True))


def run_cameras_fault(arguments: argparse.Namespace) -> Exit:
    return commands.fault(arguments.data, arguments.name, arguments.fault)


def camera(name: str, arguments: argparse.Namespace, *, secret: bool = False) -> Camera:
    """With a digest in place of its password, where it has one. Raises ValueError."""
    clip = str(arguments.clip or BUNDLED / CLIP)
    camera = Camera(name=name, clip=clip, fps=arguments.camera_fps)
    if not secret or arguments.username is None:
        return camera
    password = os.environ.get(arguments.password_env or "")
    if password is None:
        raise ValueError("--username needs --password-env and that variable set")
    ha1 = digest_ha1(arguments.username, password)
    return replace(camera, username=arguments.username, ha1=ha1)


def place(text: str) -> Place:
    return Place(Path(text).absolute())


def clip(text: str) -> Path:
    path = Path(text).absolute()
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"no file {text}")
    return path


def positive(text: str) -> float:
    number = float(text)
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError("expected a number above 0")
    return number


def count(text: str) -> int:
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError("expected a whole number above 0")
    return int(text)


def setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return name, value


def replicas(text: str) -> tuple[str, int]:
    kind, _, count = text.partition("=")
    if kind not in SERVICES or not count.isdecimal() or int(count) > MOST_REPLICAS:
        names = "|".join(SERVICES)
        raise argparse.ArgumentTypeError(f"expected {names}=N, N from 0 to {MOST_REPLICAS}")
    return kind, int(count)


if __name__ == "__main__":
    sys.exit(main())
