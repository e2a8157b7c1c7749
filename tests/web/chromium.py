"""onnxruntime-web in headless Chromium: WASM, and WebGPU on SwiftShader, a GPU in software."""

from __future__ import annotations

import atexit
import base64
import contextlib
import functools
import threading
from collections.abc import Iterator, Mapping
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import onnx

from ..engine.browser import CHROMEDRIVER, CHROMIUM, Browser, browser
from ..export.harness import Array
from .packages import UnavailableError, installed

PAGE = Path(__file__).with_name("page.html")
# Vulkan in software, for machines without a GPU.
FLAGS = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader")


class Page:
    """The runtime in one page. adapter: the GPU that the browser gives, "" where there is none."""

    def __init__(self, page: Browser) -> None:
        self._page = page
        self.adapter: str = page.run("return window.adapter")

    def run(
        self, model: onnx.ModelProto, feeds: Mapping[str, Array], provider: str
    ) -> dict[str, Array]:
        """All outputs (float32). Raises RuntimeError with what the runtime says."""
        given = [
            {"name": n, "type": str(v.dtype), "dims": v.shape, "data": _text(v.tobytes())}
            for n, v in feeds.items()
        ]
        self._page.run(
            "window.done = null; window.explain(...arguments)",
            _text(model.SerializeToString()), given, provider,
        )  # fmt: skip
        self._page.until("return window.done")
        done = self._page.run("return window.done")
        if "error" in done:
            raise RuntimeError(done["error"])
        return {
            o["name"]: np.frombuffer(base64.b64decode(o["data"]), np.float32).reshape(o["dims"])
            for o in done["outputs"]
        }


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


class _Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, and the page in it."""

    def translate_path(self, path: str) -> str:
        return str(PAGE) if path.partition("?")[0] == "/" else super().translate_path(path)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@functools.cache
def opened() -> Page:
    """The page that all runs of this process share. Raises UnavailableError."""
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(page())


@contextlib.contextmanager
def page() -> Iterator[Page]:
    """A browser with the runtime loaded. Raises UnavailableError."""
    if CHROMIUM is None or CHROMEDRIVER is None:
        raise UnavailableError("Chromium and its driver are not installed")
    handler = functools.partial(_Quiet, directory=str(installed("onnxruntime-web")))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with browser(FLAGS) as found:
            found.visit(f"http://127.0.0.1:{server.server_port}/")
            found.until("return window.ready")
            yield Page(found)
    finally:
        server.shutdown()
        server.server_close()
