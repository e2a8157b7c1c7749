"""Headless Chromium by the WebDriver protocol (W3C WebDriver), without a package for it."""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
CHROMEDRIVER = shutil.which("chromedriver")
WINDOW = (1200, 900)
# Seconds. Reached only where something is broken: a slow machine is none.
PATIENCE = 120


class Browser:
    """One page at a time."""

    def __init__(self, base: str, flags: Sequence[str]) -> None:
        options = {
            "binary": CHROMIUM,
            "args": [
                "--headless", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars",
                f"--window-size={WINDOW[0]},{WINDOW[1]}", *flags,
            ],
        }  # fmt: skip
        wanted = {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        made = _post(f"{base}/session", {"capabilities": {"alwaysMatch": wanted}})
        self._url = f"{base}/session/{made['sessionId']}"

    def open(self, page: Path) -> None:
        """Load a file and wait until it has loaded."""
        self.visit(page.resolve().as_uri())

    def visit(self, address: str) -> None:
        """Load a page and wait until it has loaded."""
        _post(f"{self._url}/url", {"url": address})

    def resize(self, width: int, height: int) -> None:
        """Give the window another size."""
        _post(f"{self._url}/window/rect", {"width": width, "height": height})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script's `return` gives."""
        return _post(f"{self._url}/execute/sync", {"script": script, "args": list(arguments)})

    def until(self, script: str) -> None:
        """Wait until a script's `return` is true, for longer than any machine takes."""
        end = time.monotonic() + PATIENCE
        while not self.run(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def move(self, x: float, y: float) -> None:
        """Put the pointer somewhere on the page."""
        self._pointer([{"type": "pointerMove", "duration": 0, "x": round(x), "y": round(y)}])

    def drag(self, x: int, y: int, to_x: int, to_y: int) -> None:
        """Press, move, let go."""
        self._pointer(
            [
                {"type": "pointerMove", "duration": 0, "x": x, "y": y},
                {"type": "pointerDown", "button": 0},
                {"type": "pointerMove", "duration": 50, "x": to_x, "y": to_y},
                {"type": "pointerUp", "button": 0},
            ]
        )

    def _pointer(self, actions: list[dict[str, Any]]) -> None:
        source = {"type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}}
        _post(f"{self._url}/actions", {"actions": [source | {"actions": actions}]})

    def scroll(self, x: int, y: int, delta: int) -> None:
        """Turn the wheel."""
        turn = {"type": "scroll", "duration": 0, "x": x, "y": y, "deltaX": 0, "deltaY": delta}
        _post(f"{self._url}/actions", {"actions": [
            {"type": "wheel", "id": "wheel", "actions": [turn]}]})  # fmt: skip

    def screenshot(self, file: Path) -> None:
        """What the page looks like."""
        data = _call(urllib.request.Request(f"{self._url}/screenshot"))
        file.write_bytes(base64.b64decode(data))

    def console(self) -> list[str]:
        """Warnings and errors so far; asking empties the list."""
        return [e["message"] for e in self._log("browser") if e["level"] in ("SEVERE", "WARNING")]

    def requests(self) -> list[str]:
        """The addresses asked for so far."""
        messages = [json.loads(e["message"])["message"] for e in self._log("performance")]
        return [
            m["params"]["request"]["url"]
            for m in messages
            if m["method"] == "Network.requestWillBeSent"
        ]

    def _log(self, kind: str) -> Any:
        return _post(f"{self._url}/se/log", {"type": kind})

    def close(self) -> None:
        """End the browser."""
        _call(urllib.request.Request(self._url, method="DELETE"))


def _post(url: str, body: dict[str, Any]) -> Any:
    head = {"Content-Type": "application/json"}
    return _call(urllib.request.Request(url, json.dumps(body).encode(), head))


def _call(request: urllib.request.Request) -> Any:
    # No proxy: the driver is on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=60) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as err:
        raise AssertionError(err.read().decode()[:500]) from None


@contextlib.contextmanager
def browser(flags: Sequence[str] = ("--disable-gpu",)) -> Iterator[Browser]:
    """A browser, ended afterwards. flags: Chromium's own."""
    assert CHROMEDRIVER is not None
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        [CHROMEDRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        base = f"http://127.0.0.1:{port}"
        end = time.monotonic() + PATIENCE
        while True:
            try:
                if _call(urllib.request.Request(f"{base}/status"))["ready"]:
                    break
            except OSError:
                assert time.monotonic() < end, "chromedriver does not start"
            time.sleep(0.05)
        page = Browser(base, flags)
        try:
            yield page
        finally:
            page.close()
    finally:
        driver.terminate()
        driver.wait(PATIENCE)
