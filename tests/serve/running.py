"""A server as its users meet it: a process, an address, bytes in and bytes out."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ..engine.commands import SRC

# Loading a model takes seconds; on a machine that does much else, many.
UP = 180


class Answer:
    """A response. json(): its body's; bytes: as they came."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {k.lower(): v for k, v in response.getheaders()}
        self.bytes = response.read()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.bytes)

    def parts(self) -> tuple[Any, bytes]:
        """The JSON part and the raw tensors behind it."""
        size = int(self.headers["inference-header-content-length"])
        return json.loads(self.bytes[:size]), self.bytes[size:]


class Server:
    """`backlight serve` with these words, on a free port. lines: its log, read so far."""

    def __init__(self, *words: str, cwd: Path | None = None, grpc: bool = False) -> None:
        port = [] if "--port" in words else ["--port", "0"]
        command = [sys.executable, "-m", "backlight", "serve", *words, *port]
        command += [] if grpc else ["--grpc-port", "off"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd,
            env={**os.environ, "PYTHONPATH": SRC},
        )  # fmt: skip
        self.lines: list[str] = []
        self._said: queue.Queue[str] = queue.Queue()
        for stream, kept in (
            (self.process.stdout, self._said.put),
            (self.process.stderr, self._log),
        ):
            threading.Thread(target=self._read, args=(stream, kept), daemon=True).start()
        self.port = self.grpc_port = 0

    def _log(self, line: str) -> None:
        self.lines.append(line)

    @staticmethod
    def _read(stream: Any, kept: Any) -> None:
        for line in stream:
            kept(line.rstrip("\n"))

    def up(self) -> Server:
        """Wait until it says where it serves."""
        end = time.monotonic() + UP
        while True:
            with contextlib.suppress(queue.Empty):
                said = self._said.get(timeout=0.2)
                where = said.split(" at http://127.0.0.1:")[1]
                self.port = int(where.partition(",")[0])
                if "gRPC" in said:
                    self.grpc_port = int(said.rsplit(":", 1)[1])
                return self
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < end, self.lines

    def __enter__(self) -> Server:
        return self.up()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def call(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None,
        timeout: float = 60,
    ) -> Answer:  # fmt: skip
        """A request on a connection of its own."""
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, data, headers or {})
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str, **how: Any) -> Answer:
        """GET."""
        return self.call("GET", path, **how)

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Answer:
        """POST."""
        return self.call("POST", path, body, headers)

    def workers(self) -> list[int]:
        """The processes that run batches."""
        listed = subprocess.run(
            ["ps", "-ww", "--ppid", str(self.process.pid), "-o", "pid=,args="],
            capture_output=True, text=True, check=False,
        ).stdout.splitlines()  # fmt: skip
        return [int(line.split()[0]) for line in listed if "serve.worker" in line]

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What the log has of a kind."""
        return [e for e in map(json.loads, list(self.lines)) if e["event"] == kind]

    def last(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The last of a kind with these fields, after the log has settled: a request is logged
        behind its answer."""
        before = -1
        while before != len(self.lines):
            before = len(self.lines)
            time.sleep(0.2)
        return next(e for e in reversed(self.events(kind)) if fields.items() <= e.items())

    def end(self, number: int = signal.SIGTERM, seconds: float = 60) -> int:
        """Send it a signal; its exit code."""
        self.process.send_signal(number)
        return self.process.wait(seconds)


def binary(inputs: list[tuple[str, str, Any]], **more: Any) -> tuple[bytes, dict[str, str]]:
    """A request with raw tensors: its body and its header. inputs: name, datatype, array."""
    listed, raw = [], b""
    for name, datatype, array in inputs:
        data = array if isinstance(array, bytes) else array.tobytes()
        shape = more.pop("shape", None) or list(array.shape)
        listed.append({"name": name, "datatype": datatype, "shape": shape,
                       "parameters": {"binary_data_size": len(data)}})  # fmt: skip
        raw += data
    text = json.dumps({"inputs": listed, **more}).encode()
    return text + raw, {"Inference-Header-Content-Length": str(len(text))}
