"""The command a user types: `python -m deploy.local`, with everything but the services."""

import json
import os
import signal
import stat
from contextlib import suppress

import psutil
import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from deploy.local.place import Place
from deploy.local.warden import is_alive
from tests.deploy.camera_process import Client
from tests.stack import RunningStack, deploy_local, environment, eventually

PASSWORD = "p@:/?#%ü-canary"
BACK_BAR_S = 15.0  # a JVM's start, beside another whole stack's


@pytest.fixture(scope="module")
def stack_options():
    return ["--no-services", "--cameras", "2", "--camera-fps", "2"]


def test_stack_json_is_for_its_owner_only_and_has_the_fixed_shape(stack):
    file = stack.folder / "stack.json"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    described = json.loads(file.read_text())
    assert set(described) == {
        *("version", "ready", "topicPrefix", "kafkaBootstrapServers", "databaseUrl", "gatewayUrl"),
        *("wsUrl", "aiUrl", "apiKey", "mediaPath", "storagePath", "cameras", "services", "parts"),
        "held",
    }
    assert described["ready"] is True
    assert described["topicPrefix"] == "sightlog."
    assert [part["name"] for part in described["parts"]] == ["kafka", "postgres", "cameras"]
    assert [set(part) for part in described["parts"]] == [{"name", "pid", "port"}] * 3


def test_cameras_are_listed_with_address_clip_and_rate(stack):
    camera = stack["cameras"][0]
    port = stack.part("cameras")["port"]
    assert camera["name"] == "cam1"
    assert camera["url"] == f"rtsp://127.0.0.1:{port}/cam1"
    assert camera["fps"] == 2
    assert camera["clip"].endswith("vtest_12s.mp4")


def test_progress_tells_scripts_what_happens(stack):
    lines = stack.output().splitlines()
    assert "stage=fetch state=done" in lines
    assert "stage=start part=kafka state=starting" in lines
    assert "stage=ready part=postgres state=ready" in lines
    assert lines[lines.index("stage=ready state=done") + 1].startswith("READY ")


def test_topics_and_tables_are_laid(stack):
    admin = AdminClient({"bootstrap.servers": stack["kafkaBootstrapServers"]})
    assert "sightlog.frames.v1" in admin.list_topics(timeout=5).topics
    with psycopg.connect(stack["databaseUrl"]) as connection:
        assert connection.execute("SELECT count(*) FROM streams").fetchone() == (0,)


def test_the_database_asks_for_a_password(stack):
    address, _, _ = stack["databaseUrl"].partition("?")
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(address, passfile="/dev/null")


def test_no_secret_is_in_a_process_list_or_an_environment(stack):
    stack.run("cameras", "add", "--username", "u", "--password-env", "PW", PW=PASSWORD)
    password = (stack.folder / "secrets" / "pgpass").read_text().strip().rpartition(":")[2]
    supervisor = psutil.Process(stack.supervisor.pid)
    for process in (supervisor, *supervisor.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # Postgres' come and go
            seen = " ".join([*process.cmdline(), *process.environ().values()])
            assert not any(secret in seen for secret in (stack["apiKey"], password, PASSWORD))
    assert PASSWORD not in (stack.folder / "cameras.json").read_text()


def test_added_cameras_get_the_next_names_and_can_be_reached(stack):
    before = [camera["name"] for camera in stack["cameras"]]
    added = stack.run("cameras", "add", "--count", "2")
    assert added.returncode == 0
    names = [camera["name"] for camera in stack["cameras"]]
    assert names == [*before, f"cam{len(before) + 1}", f"cam{len(before) + 2}"]
    assert added.stdout.split() == [camera["url"] for camera in stack["cameras"][-2:]]


@pytest.mark.parametrize("count", ["0", "-1", "two"])
def test_a_number_of_cameras_that_is_none_is_refused(stack, count):
    refused = stack.run("cameras", "add", "--count", count)
    assert refused.returncode == 2
    assert "whole number" in refused.stderr


def test_a_camera_needs_its_password_from_a_variable_that_is_set(stack):
    refused = stack.run("cameras", "add", "--username", "u", "--password-env", "NOT_SET")
    assert refused.returncode == 2
    assert "--password-env" in refused.stderr


@pytest.mark.parametrize(("name", "fault"), [("cam99", "reset"), ("cam1", "sulks")])
def test_an_unknown_camera_or_fault_is_refused(stack, name, fault):
    assert stack.run("cameras", "fault", name, fault).returncode == 2


def test_a_fault_can_be_put_on_and_taken_off(stack):
    assert stack.run("cameras", "fault", "cam1", "clock=+3600").returncode == 0
    assert "clock=+3600" in (stack.folder / "cameras.json").read_text()
    assert stack.run("cameras", "fault", "cam1", "none").returncode == 0
    assert "clock" not in (stack.folder / "cameras.json").read_text()


def answer(port):
    """To a new reader of cam1: a status, or how the connection failed."""
    with Client(port) as reader:
        reader.socket.settimeout(0.5)
        try:
            return reader.ask("DESCRIBE", "cam1")[0]
        except OSError as error:
            return type(error)


@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        ("blackhole", TimeoutError),
        ("reset", ConnectionResetError),
        ("redirect=rtsp://127.0.0.1:1/x", 302),
        ("halfopen", 200),  # and then nothing: see test_camera_faults
        ("garbage", 200),
        ("none", 200),
    ],
)
def test_a_fault_shows_on_the_running_stack(stack, fault, seen):
    assert stack.run("cameras", "fault", "cam1", fault).returncode == 0
    port = stack.part("cameras")["port"]
    assert eventually(lambda: answer(port) == seen, 10)


def test_a_second_supervisor_is_refused(stack):
    second = deploy_local("up", "--data", str(stack.folder), "--ports", "auto", "--no-services")
    assert second.returncode == 2
    assert "runs" in second.stderr
    assert second.stderr.splitlines()[0] == "stage=start state=refused"  # the first goes on


def test_logs_can_be_read_by_name(stack):
    shown = stack.run("logs", "postgres")
    assert "ready to accept connections" in shown.stdout
    assert stack.run("logs", "nobody").returncode == 5


@pytest.mark.parametrize("name", ["kafka", "postgres", "cameras"])
def test_a_killed_part_comes_back_and_status_says_so_meanwhile(stack, name):
    killed = stack.part(name)["pid"]
    os.kill(killed, signal.SIGKILL)
    assert eventually(lambda: stack.part(name)["pid"] not in (killed, None), 10)
    assert eventually(lambda: stack.run("status").returncode == 0, 4 * BACK_BAR_S)
    shown = json.loads(stack.run("status", "--json").stdout)
    assert shown["healthy"] is True
    assert "apiKey" not in shown


def test_status_is_unhealthy_while_a_part_is_away(stack):
    """One that is killed may be back before it is asked for."""
    assert stack.run("hold", "cameras").returncode == 0
    assert stack.run("status").returncode == 1
    assert stack.run("release", "cameras").returncode == 0
    assert eventually(lambda: stack.run("status").returncode == 0, 4 * BACK_BAR_S)


@pytest.mark.parametrize(("name", "how"), [("kafka", "KILL"), ("postgres", "TERM")])
def test_a_held_part_stays_away_until_it_is_released(stack, name, how):
    assert stack.run("hold", name, "--signal", how).returncode == 0
    assert stack["held"] == [name]
    assert stack.part(name)["pid"] is None
    assert not eventually(lambda: stack.part(name)["pid"] is not None, 1.5)
    assert stack.run("status").returncode == 1
    assert stack.run("release", name).returncode == 0
    assert stack["held"] == []
    assert eventually(lambda: stack.run("status").returncode == 0, 20)


def test_to_hold_what_is_not_there_is_refused(stack):
    refused = stack.run("hold", "detector.1")
    assert refused.returncode == 2
    assert "detector.1" in refused.stderr


def test_ctrl_c_ends_all_of_it_who_stands_on_others_first(stack):
    family = psutil.Process(stack.supervisor.pid).children(recursive=True)
    os.kill(stack.supervisor.pid, signal.SIGINT)
    assert stack.supervisor.wait(30) == 0
    assert not any(is_alive(process.pid) for process in family)
    assert stack["ready"] is False
    stopped = [line for line in stack.output().splitlines() if line.startswith("stage=stop")]
    last = [line.split()[1] for line in stopped[-3:]]  # after those that were held
    assert last == ["part=cameras", "part=postgres", "part=kafka"]


def test_nothing_lives_after_the_supervisor_was_killed_and_up_works_again(warden, tmp_path_factory):
    folder = tmp_path_factory.mktemp("killed") / "data"
    stack = RunningStack(folder, ["--no-services"], warden)
    kafka, database = stack["kafkaBootstrapServers"], stack["databaseUrl"]
    with psycopg.connect(database) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 1")
    family = psutil.Process(stack.supervisor.pid).children(recursive=True)
    stack.supervisor.kill()
    assert stack.supervisor.wait(5) == -signal.SIGKILL
    assert eventually(lambda: not any(is_alive(process.pid) for process in family), 12)
    try:
        detached(folder)
        assert (stack["kafkaBootstrapServers"], stack["databaseUrl"]) == (kafka, database)
        with psycopg.connect(database) as connection:
            assert connection.execute("SELECT count(*) FROM kept").fetchone() == (1,)
    finally:
        stopped = stack.run("stop")
    assert stopped.returncode == 0
    assert stack.run("status").returncode == 5


def detached(folder):
    """Returns when all is ready."""
    words = ("--data", str(folder), "--ports", "auto", "--no-services", "--detach")
    started = deploy_local("up", *words)
    assert started.returncode == 0
    assert started.stdout.splitlines()[-1].startswith("READY ")
    assert deploy_local("status", "--data", str(folder)).returncode == 0


@pytest.mark.parametrize(
    "words",
    [
        ["up"],
        ["up", "--data", "x", "--scale", "ingestor=many"],
        ["up", "--data", "x", "--scale", "nobody=2"],
        ["up", "--data", "x", "--clip", "/no/such/clip"],
        ["up", "--data", "x", "--env", "no equals sign"],
        ["dance"],
    ],
)
def test_wrong_usage_is_exit_status_2(words):
    assert deploy_local(*words).returncode == 2


@pytest.mark.parametrize(
    "words",
    [
        ["status"],
        ["stop"],
        ["scale", "ingestor=2"],
        ["cameras", "add"],
        ["cameras", "fault", "cam1", "none"],
        ["hold", "kafka"],
        ["release", "kafka"],
    ],
)
def test_without_a_stack_there_the_exit_status_is_5(words, tmp_path):
    assert deploy_local(*words, "--data", str(tmp_path)).returncode == 5


def test_a_stack_that_is_still_starting_is_unhealthy_not_absent(tmp_path):
    place = Place(tmp_path)
    with place.owned():
        assert deploy_local("status", "--data", str(tmp_path)).returncode == 1
    assert deploy_local("status", "--data", str(tmp_path)).returncode == 5


def test_a_fetch_that_fails_is_exit_status_3(tmp_path):
    nowhere = {"SIGHTLOG_CACHE_DIR": str(tmp_path / "cache"), "HTTPS_PROXY": "http://127.0.0.1:1"}
    failed = deploy_local("up", "--data", str(tmp_path / "data"), "--ports", "auto", **nowhere)
    assert failed.returncode == 3
    assert "repo.maven.apache.org" in failed.stderr


def test_what_is_not_ready_in_time_is_exit_status_4_and_nothing_stays(tmp_path):
    words = ("up", "--data", str(tmp_path / "data"), "--ports", "auto", "--timeout", "0.2")
    late = deploy_local(*words)
    assert late.returncode == 4
    assert "kafka" in late.stderr.splitlines()[-1]
    assert not [one for one in psutil.process_iter() if str(tmp_path) in " ".join(cmdline(one))]


def cmdline(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def test_the_tests_own_environment_does_not_reach_a_stack():
    assert "SIGHTLOG_TEST_STACK" not in environment()
