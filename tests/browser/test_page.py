"""The page does in a real browser what it is for."""

import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from schemas.messages import Reason, Status
from services.gateway.access import Access, Role
from tests.browser.site import HEIGHT, SHADES, WIDTH, an_id, box_left, shade, site
from tests.ports import free_port

playwright = pytest.importorskip("playwright.sync_api", reason="make browser installs playwright")

pytestmark = pytest.mark.browser

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
KEY = "the-key-of-a-viewer"
LOOKS: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = os.environ.get("SIGHTLOG_BROWSER") or next(
        filter(None, map(shutil.which, BROWSERS)), None
    )
    if path is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=path, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def tab(browser: Any) -> Iterator[Any]:
    """A page in which nothing goes wrong: no error, no breach of the content policy."""
    context = browser.new_context(**LOOKS)
    context.set_default_timeout(10_000)
    tab = context.new_page()
    wrong: list[str] = []
    tab.on("pageerror", lambda error: wrong.append(str(error)))
    tab.on("console", lambda line: wrong.extend([line.text] * (line.type == "error")))
    yield tab
    context.close()
    # What the browser says of every answer of 4xx and of a server that is away is no error of ours.
    assert [line for line in wrong if "Failed to load" not in line and "ERR_" not in line] == []


def tile_of(tab: Any, number: int) -> Any:
    return tab.locator(f'[data-stream-id="{an_id(number)}"]')


def until(tab: Any, true: Callable[[], object], within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < deadline, "it did not become true in time"
        tab.wait_for_timeout(50)


PIXELS = """canvas => {
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    const at = (x, y) => [0, 1, 2].map(channel => data[(y * canvas.width + x) * 4 + channel]);
    return {
        ground: at(5, 5),
        row: Array.from({length: canvas.width}, (_, x) => at(x, Math.round(canvas.height * 0.65))),
    };
}"""


def test_a_picture_is_drawn_with_the_boxes_of_its_own_frame(tab: Any) -> None:
    with site("door", "yard") as (_, url):
        tab.goto(url)
        for number in (0, 1):
            tab.wait_for_selector(f'[data-stream-id="{an_id(number)}"][data-live][data-boxes="1"]')
        seen = set()

        def looked_at_several() -> bool:
            pixels = tile_of(tab, 0).locator("canvas").evaluate(PIXELS)
            level = pixels["ground"][0]
            seq = min(range(SHADES), key=lambda one: abs(shade(one) - level))
            assert abs(shade(seq) - level) < 6
            coloured = [
                x for x, (r, g, b) in enumerate(pixels["row"]) if max(r, g, b) - min(r, g, b) > 60
            ]
            if not coloured:  # a picture whose record was late
                return False
            assert abs(coloured[0] - box_left(seq) * WIDTH) < 4
            assert abs(coloured[-1] - (box_left(seq) + 0.2) * WIDTH) < 4
            seen.add(seq)
            return len(seen) >= 3

        until(tab, looked_at_several)
        spoken = "Live picture of door: person"  # every few seconds
        playwright.expect(tile_of(tab, 0).locator("canvas")).to_have_attribute("aria-label", spoken)
        assert "person" in tab.locator("#newest li").first.inner_text()
        assert tab.locator("#connection").inner_text() == "live"
        assert tab.locator("#tally").inner_text() == "2 streams, 2 running"


def test_a_picture_without_a_record_is_shown_all_the_same(tab: Any) -> None:
    with site("door") as (made, url):
        made.detects = False
        tab.goto(url)
        tab.wait_for_selector('.tile[data-live][data-boxes="0"]')


def test_each_tile_says_how_its_stream_fares(tab: Any) -> None:
    with site("door") as (made, url):
        tab.goto(url)
        tile = tile_of(tab, 0)
        tab.wait_for_selector(".tile[data-live]")
        assert tile.locator("h2").inner_text() == "door"
        assert tile.locator(".badge").inner_text() == "RUNNING"
        assert tile.locator(".rate").inner_text() == "4.9 fps"
        assert tile.locator(".lag").inner_text() == "81 ms"
        assert "s ago" in tile.locator(".heartbeat").inner_text()
        made.say_status(
            an_id(0),
            Status.ERROR,
            reason=Reason.AUTH_FAILED,
            message="the camera refused the password",
            hint="check user and password",
        )
        playwright.expect(tile.locator(".badge")).to_have_text("ERROR")
        reason = "AUTH_FAILED · the camera refused the password · check user and password"
        playwright.expect(tile.locator(".reason")).to_have_text(reason)
        playwright.expect(tile.locator(".veil")).to_have_text("no picture: the stream is ERROR")
        playwright.expect(tile.locator(".veil")).to_be_visible()
        made.say_status(an_id(0), Status.RUNNING, reason=None, message=None, hint=None)
        tab.wait_for_selector(".tile[data-live]")
        playwright.expect(tile.locator(".reason")).to_be_hidden()


def test_a_picture_that_comes_when_its_stream_has_failed_is_not_shown(tab: Any) -> None:
    with site("door") as (made, url):
        tab.goto(url)
        tab.wait_for_selector(".tile[data-live]")
        held: list[tuple[Any, Any]] = []
        tab.route("**/streams/*/frame", lambda route: held.append((route, route.fetch())))
        until(tab, lambda: held)
        made.say_status(an_id(0), Status.ERROR)
        veil = tile_of(tab, 0).locator(".veil")
        playwright.expect(veil).to_be_visible()
        [(route, answer)] = held
        route.fulfill(response=answer)
        tab.wait_for_timeout(1000)  # longer than a picture waits for its record
        playwright.expect(veil).to_be_visible()


def test_a_camera_whose_certificate_is_not_checked_says_so(tab: Any) -> None:
    with site("door", "yard") as (made, url):
        for number, address in enumerate(("rtsps://cam/door", "rtsp://cam/yard")):
            made.streams[an_id(number)] |= {"rtspUrl": address, "verifyTls": False}
        tab.goto(url)
        unchecked = "The camera's certificate is not checked (verifyTls: false)"
        playwright.expect(tile_of(tab, 0).locator(".reason")).to_have_text(unchecked)
        playwright.expect(tile_of(tab, 1).locator(".reason")).to_be_hidden()


def test_a_line_of_the_newest_detections_shows_its_picture(tab: Any) -> None:
    with site("door") as (made, url):
        tab.goto(url)
        tab.wait_for_selector("#newest button")
        made.detects = False  # so that the list stands still
        tab.locator("#newest button").first.click()
        viewer = tab.locator("#viewer-picture")
        playwright.expect(viewer).to_have_attribute("aria-label", re.compile("^door: person, "))
        assert tab.locator("#viewer").is_visible()
        assert viewer.evaluate(PIXELS)["ground"] != [0, 0, 0]
        tab.get_by_role("button", name="Close").click()
        playwright.expect(tab.locator("#viewer")).to_be_hidden()


def test_streams_come_and_go_without_a_reload(tab: Any) -> None:
    with site("door", "yard") as (made, url):
        tab.goto(url)
        playwright.expect(tab.locator(".tile")).to_have_count(2)
        playwright.expect(tab.locator("#connection")).to_have_text("live")
        made.say_status(an_id(1), "DELETED")
        playwright.expect(tab.locator(".tile")).to_have_count(1)
        made.say_status(an_id(0), "DELETED")
        playwright.expect(tab.locator("#none")).to_be_visible()
        assert "curl http://" in tab.locator("#example").inner_text()


def test_many_streams_share_a_few_connections_and_all_are_shown(tab: Any) -> None:
    with site(*(f"camera {number}" for number in range(20))) as (made, url):
        tab.set_viewport_size({"width": 1800, "height": 2400})
        tab.goto(url)
        playwright.expect(tab.locator(".tile[data-live]")).to_have_count(20)
        until(tab, lambda: min(made.asked.values()) >= 3)
        assert made.busiest <= 4


def test_only_tiles_that_can_be_seen_ask_for_pictures(tab: Any) -> None:
    with site(*(f"camera {number}" for number in range(20))) as (made, url):
        tab.set_viewport_size({"width": 500, "height": 600})
        tab.goto(url)
        tab.wait_for_selector(".tile[data-live]")
        until(tab, lambda: max(made.asked.values()) > 5)
        assert sum(1 for asked in made.asked.values() if asked == 0) > 10


def test_a_gateway_that_comes_back_is_found_again(tab: Any) -> None:
    port = free_port()
    with site("door", port=port) as (_, url):
        tab.goto(url)
        tab.wait_for_selector(".tile[data-live]")
    playwright.expect(tab.locator("#connection")).to_have_text("no connection, trying again")
    with site("door", port=port):
        playwright.expect(tab.locator("#connection")).to_have_text("live", timeout=15_000)
        tab.wait_for_selector('.tile[data-live][data-boxes="1"]')


def test_with_keys_the_page_asks_for_one_and_keeps_it_in_the_tab(tab: Any) -> None:
    with site("door", access=Access({KEY: Role.VIEWER}, ())) as (_, url):
        tab.goto(url)
        tab.get_by_label("API key").fill("a-wrong-key-of-nobody")
        tab.get_by_role("button", name="Use it").click()
        playwright.expect(tab.locator("#key-hint")).to_contain_text("not good")
        tab.get_by_label("API key").fill(KEY)
        tab.get_by_role("button", name="Use it").click()
        tab.wait_for_selector('.tile[data-live][data-boxes="1"]')
        playwright.expect(tab.locator("#key-form")).to_be_hidden()
        assert tab.evaluate("Object.values(localStorage).length + document.cookie.length") == 0
        assert KEY not in tab.url
        tab.reload()
        tab.wait_for_selector(".tile[data-live]")


def test_a_name_is_text_whatever_it_says(tab: Any) -> None:
    name = '<img src=x onerror="document.title=1"><b>bold'
    with site(name) as (_, url):
        tab.goto(url)
        playwright.expect(tab.locator(".tile h2")).to_have_text(name)
        assert tab.title() == "Sightlog"


CONTRAST = """selectors => selectors.map(selector => {
    const element = document.querySelector(selector);
    const parse = colour => colour.match(/[\\d.]+/g).map(Number);
    const light = ([r, g, b]) => {
        const linear = c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
        return 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
    };
    const behind = element => getComputedStyle(element).backgroundColor;
    let ground = element;
    while ((parse(behind(ground))[3] ?? 1) === 0) ground = ground.parentElement;
    const pair = [getComputedStyle(element).color, behind(ground)];
    const [a, b] = pair.map(colour => light(parse(colour))).sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
})"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(tab: Any, scheme: str) -> None:
    tab.emulate_media(color_scheme=scheme)
    with site("one", "two", "three", "four") as (made, url):
        tab.goto(url)
        tab.wait_for_selector(".tile[data-live]")
        for number, status in enumerate((Status.STARTING, Status.ERROR, Status.STOPPED)):
            made.say_status(
                an_id(number), status, reason=Reason.TIMEOUT, message="late", hint="wait"
            )
            playwright.expect(tile_of(tab, number).locator(".badge")).to_have_text(status)
        badges = [f'[data-status="{status}"] .badge' for status in Status if status != "STOPPING"]
        others = ["h1", "#connection", "#tally", ".tile h2", ".reason", ".tile dt", ".when"]
        ratios = tab.evaluate(CONTRAST, badges + others)
        assert min(ratios) >= 4.5, dict(zip(badges + others, ratios, strict=True))
        assert tab.evaluate("[...document.images].every(image => image.hasAttribute('alt'))")
        assert tab.locator('.tile canvas[role="img"][aria-label]').count() == 4


def test_the_page_fits_a_phone(tab: Any) -> None:
    with site("a camera with quite a long name that will not fit on a phone") as (_, url):
        tab.set_viewport_size({"width": 360, "height": 740})
        tab.goto(url)
        tab.wait_for_selector(".tile[data-live]")
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert tab.locator(".tile canvas").bounding_box()["height"] < HEIGHT
