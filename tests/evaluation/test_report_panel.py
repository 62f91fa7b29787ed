"""The report's map panel as a person meets it: in a browser, by keyboard and pointer, off the network."""

import base64
import fcntl
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import time

import matplotlib.image
import numpy as np
import pytest

from bdgf_jax.evaluation import pictures
from bdgf_jax.evaluation.report import write_report

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine to drive")

# Chromium reads commands from file 3 and answers on file 4.
LAUNCH = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
KEYS = {"Tab": 9, "ArrowLeft": 37, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """A headless Chromium, spoken to by the DevTools protocol through two pipes."""

    def __init__(self, profile):
        low_reads, self.writes = os.pipe()
        self.reads, low_writes = os.pipe()
        # Out of the way of 3 and 4, which one of them may have.
        reads, writes = (fcntl.fcntl(low, fcntl.F_DUPFD, 64) for low in (low_reads, low_writes))
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self.process = subprocess.Popen(
            [sys.executable, "-c", LAUNCH, str(reads), str(writes), CHROMIUM, *flags],
            pass_fds=(reads, writes),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for end in (low_reads, low_writes, reads, writes):
            os.close(end)
        self.numbers, self.rest, self.session, self.complaints = itertools.count(1), b"", None, []

    def __call__(self, method, **parameters):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.writes, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                read = os.read(self.reads, 1 << 16)
                assert read, "Chromium is gone"
                self.rest += read
            answer, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(answer)
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(answer["params"])
            if answer.get("id") == number:
                return answer["result"]

    def open(self, address):
        self.session = None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self("Runtime.enable")
        self("Log.enable")
        self("Emulation.setDeviceMetricsOverride", width=1200, height=900, deviceScaleFactor=1, mobile=False)
        self("Page.navigate", url=address)
        until = time.monotonic() + 20
        while self.value("document.readyState === 'complete' && location.protocol") != "file:":
            assert time.monotonic() < until, "the page does not load"
            time.sleep(0.02)

    def value(self, expression):
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def press(self, key, *, shift=False):
        code = f"Digit{key}" if key.isdigit() else f"Key{key.upper()}" if len(key) == 1 else key
        number = KEYS.get(key) or ord(key.upper())
        for kind in ("rawKeyDown", "keyUp"):
            parameters = {"key": key, "code": code, "windowsVirtualKeyCode": number, "modifiers": 8 * shift}
            self("Input.dispatchKeyEvent", type=kind, **parameters)

    def focus(self, selector):
        """Walks to an element by the tabulator, as someone without a mouse has to."""
        for _ in range(20):
            if self.value(f"document.activeElement.matches('{selector}')"):
                return
            self.press("Tab")
        raise AssertionError(f"the tabulator never reaches {selector}")

    def box(self, selector):
        return self.value(
            f"(() => {{ const box = document.querySelector('{selector}').getBoundingClientRect();"
            " return [box.left, box.top, box.width, box.height]; })()"
        )

    def screenshot(self):
        data = base64.b64decode(self("Page.captureScreenshot")["data"])
        return np.round(255 * matplotlib.image.imread(io.BytesIO(data))[..., :3]).astype(int)

    def close(self):
        self.process.terminate()
        self.process.wait(20)
        os.close(self.writes)
        os.close(self.reads)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory, report):
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, **report)
    return path.as_uri()


def shown(browser):
    """Names of the two layers, the line's place, and what a reload would show."""
    tags = browser.value("[...document.querySelectorAll('.stage .tag')].map(tag => tag.textContent)")
    at = browser.value("document.querySelector('.stage').style.getPropertyValue('--at')")
    return (*tags, at, browser.value("location.hash"))


def test_the_panel_stands_in_for_the_pictures_side_by_side_which_are_printed(browser, page):
    browser.open(page)
    assert shown(browser) == ("Reference", "Map", "50%", "")
    style = "getComputedStyle(document.getElementById('{}')).display"
    assert browser.value(style.format("viewer")) == "grid"
    assert browser.value(style.format("side-by-side")) == "none"
    browser("Emulation.setEmulatedMedia", media="print")
    assert browser.value(style.format("viewer")) == "none"
    assert browser.value(style.format("side-by-side")) == "grid"


def test_the_keyboard_alone_moves_the_line_chooses_layers_and_swaps(browser, page):
    browser.open(page)
    browser.focus("input.swipe")
    for _ in range(4):
        browser.press("ArrowRight")
    assert shown(browser) == ("Reference", "Map", "52%", "#view=reference,map,52")
    browser.press("ArrowLeft")
    browser.press("1")
    browser.press("6", shift=True)
    assert shown(browser) == ("Errors", "msi", "51.5%", "#view=errors,sensor-0,51.5")
    browser.press("x")
    assert shown(browser) == ("msi", "Errors", "51.5%", "#view=sensor-0,errors,51.5")
    browser.focus('input[name="left"]')
    browser.press("ArrowDown")
    assert shown(browser)[:2] == ("sar", "Errors")
    browser.focus('input[name="right"]')
    browser.press("ArrowDown")
    assert shown(browser)[:2] == ("sar", "Confidence")


def test_an_address_brings_back_the_view_and_nonsense_in_it_is_ignored(browser, page):
    browser.open(f"{page}#view=confidence,disagreement,20")
    assert shown(browser)[:3] == ("Confidence", "Disagreement", "20%")
    browser.open(f"{page}#view=nothing,map,900")
    assert shown(browser)[:3] == ("Reference", "Map", "100%")


def test_each_side_of_the_line_shows_its_layer_pixel_by_pixel(browser, page, report):
    scene = report["scene"]
    browser.open(f"{page}#view=reference,map,40")
    browser.value("document.querySelector('.stage').scrollIntoView()")
    left, top, width, height = browser.box(".stage")
    assert width / height == pytest.approx(56 / 40, rel=0.01)
    screen = browser.screenshot()
    layers = [pictures.class_picture(values, scene.classes) for values in (scene.labels, report["prediction"])]
    for row, column in itertools.product(range(2, 32, 3), (*range(1, 19, 3), *range(26, 50, 3))):
        there = screen[int(top + (row + 0.5) * height / 40), int(left + (column + 0.5) * width / 56)]
        *expected, opaque = layers[column > 22][row, column]
        if opaque:
            np.testing.assert_allclose(there, expected, atol=3)


def test_a_pixel_under_the_pointer_is_read_out(browser, page, report):
    browser.open(page)
    browser.value("document.querySelector('.stage').scrollIntoView()")
    left, top, width, height = browser.box(".stage")
    x, y = left + 10.5 * width / 56, top + 20.5 * height / 40
    browser("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    names = [report["scene"].classes[values[20, 10]].name for values in (report["scene"].labels, report["prediction"])]
    said = browser.value("document.querySelector('output').textContent")
    assert said == f"row 20, column 10: reference {names[0]}, map {names[1]}"


def test_a_click_moves_the_line_there_and_the_button_swaps(browser, page):
    browser.open(page)
    browser.value("document.querySelector('.stage').scrollIntoView()")
    left, top, width, height = browser.box(".stage")
    for kind in ("mousePressed", "mouseReleased"):
        at = {"x": left + width / 4, "y": top + height / 2}
        browser("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **at)
    assert float(shown(browser)[2].rstrip("%")) == pytest.approx(25, abs=1)
    browser.value("document.querySelector('.viewer button').click()")
    assert shown(browser)[:2] == ("Map", "Reference")


def test_nothing_was_asked_of_the_network_and_nothing_went_wrong(browser, page):
    browser.open(page)
    assert browser.complaints == []
    fetched = browser.value("performance.getEntriesByType('resource').map(one => one.name)")
    assert not [address for address in fetched if not address.startswith("data:")]
