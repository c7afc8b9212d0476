"""A headless Chromium that opens pages, through Chrome's DevTools protocol on two pipes (file descriptors 3 and 4)."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

KEYS = {"Tab": (9, ""), "Enter": (13, "\r")}
"""Name of a key -> its code, and the text that it types."""
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


FOCUSED = """(() => {
  const e = document.activeElement, r = e.getBoundingClientRect(), again = "reached" in e.dataset;
  e.dataset.reached = "";
  return {tag: e.tagName, text: e.textContent.slice(0, 80), again, outlined: getComputedStyle(e).outlineStyle !== "none",
          shown: r.bottom > 0 && r.top < innerHeight};
})()"""
"""JavaScript: the element that has the focus."""


def check_page(browser: Browser, page: Path, width: int, *, dark: bool) -> None:
    """Open a page and all its folded parts by keyboard: it fits the width, has no errors, and asks for nothing else."""
    browser.open(page, width, dark=dark)
    assert browser.value("document.documentElement.scrollWidth") <= width
    tags = browser.open_all_by_keyboard()
    assert tags.count("SUMMARY") == browser.value("document.querySelectorAll('details').length") > 0
    assert browser.value("document.querySelectorAll('details:not([open])').length") == 0
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.requested() == [page.resolve().as_uri()] and browser.complaints() == []


@contextlib.contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser with one empty tab. The test skips if none is installed."""
    program = next((path for name in NAMES if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("needs a browser: apt-get install chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(program, Path(profile))
        try:
            browser.attach()
            yield browser
        finally:
            browser.close()


class Browser:
    """A process of the browser. events: all that it has reported, in order."""

    def __init__(self, program: str, profile: Path) -> None:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--disable-dev-shm-usage"]
        quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
        there, back = ([fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in os.pipe()] for _ in range(2))
        nowhere = [(os.POSIX_SPAWN_OPEN, n, os.devnull, os.O_WRONLY, 0) for n in (1, 2)]
        pipes = [(os.POSIX_SPAWN_DUP2, there[0], 3), (os.POSIX_SPAWN_DUP2, back[1], 4)]
        words = [program, *options, *quiet, f"--user-data-dir={profile}", "about:blank"]
        self.process = os.posix_spawn(program, words, os.environ, file_actions=[*nowhere, *pipes], setpgroup=0)
        os.close(there[0])
        os.close(back[1])
        self.requests, self.answers = there[1], back[0]
        self.events: list[dict[str, Any]] = []
        self._number, self._rest, self._session = 0, b"", ""

    def attach(self) -> None:
        """Connect to the tab, and report its requests and messages."""
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; returns its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self.requests, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            block = os.read(self.answers, 1 << 20)
            assert block, "the browser has ended"
            self._rest += block
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int, *, height: int = 800, dark: bool = False) -> None:
        """Open a page in a window of this size, in px, and wait until it is loaded."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=page.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())
        time.sleep(0.1)  # messages about the page may follow

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; of a promise, what it resolves to."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str) -> None:
        """Press and release a key of `KEYS`."""
        code, text = KEYS[key]
        words = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown" if text else "rawKeyDown",
            **words,
            **({"text": text} if text else {}),
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **words)

    def open_all_by_keyboard(self) -> list[str]:
        """Go through the page with Tab, and open each folded part with Enter; returns the tags that had the focus.

        Each element that has the focus must be within the window and have an outline.
        """
        tags = list[str]()
        while True:
            self.press("Tab")
            found = self.value(FOCUSED)
            if found["tag"] == "BODY" or found["again"]:
                return tags
            assert found["outlined"] and found["shown"], found
            tags.append(found["tag"])
            if found["tag"] == "SUMMARY":
                self.press("Enter")
                assert self.value("document.activeElement.parentElement.open"), found

    def requested(self) -> list[str]:
        """Addresses that the page asked for, itself included."""
        sent = [event["params"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [parameters["request"]["url"] for parameters in sent]

    def complaints(self) -> list[Any]:
        """Errors and warnings of the page."""
        kinds = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
        return [event["params"] for event in self.events if event.get("method") in kinds]

    def screenshot(self, file: Path) -> None:
        """Write a picture of the whole page as PNG."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png")
        file.write_bytes(base64.b64decode(picture["data"]))

    def close(self) -> None:
        """End the browser and its processes."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self.requests)
        os.close(self.answers)
