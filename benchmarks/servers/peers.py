"""The other servers, started each in its environment."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).parent
PEERS = ("prototype", "kserve", "mlserver")
# MLServer speaks JSON alone; pictures are nobody's but ours.
FORMS = {"prototype": ("binary", "json"), "kserve": ("binary", "json"), "mlserver": ("json",)}
UP = 120


def interpreters(given: list[str]) -> dict[str, str]:
    """Of `NAME=PYTHON`; the prototype runs in this environment. Exits where there is no such."""
    found = {}
    for word in given:
        name, _, python = word.partition("=")
        python = python or (sys.executable if name == "prototype" else "")
        if name not in PEERS or not Path(python).exists():
            sys.exit(f"--peer {word}; expected {', '.join(PEERS)}, =PYTHON behind it")
        found[name] = python
    return found


class Peer:
    """A server that runs. folder: its own, for what it writes."""

    def __init__(self, name: str, python: str, plain: Path, explaining: Path, folder: Path) -> None:
        self.name, self.folder = name, folder
        folder.mkdir()
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.port = one.getsockname()[1]
        command = [python, HERE / f"{name}.py", plain.resolve(), explaining, str(self.port)]
        env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        self._log = (folder / "log").open("w")
        self.process = subprocess.Popen(command, cwd=folder, env=env, stdout=self._log,
                                        stderr=self._log, start_new_session=True)  # fmt: skip

    def __enter__(self) -> Peer:
        end = time.monotonic() + UP
        while time.monotonic() < end and self.process.poll() is None:
            try:
                if self.status("GET", "/v2/health/ready", timeout=5) == 200:
                    return self
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.2)
        self.__exit__()
        sys.exit(f"{self.name} doesn't come up: {(self.folder / 'log').read_text()[-2000:]}")

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own
        self.process.wait()
        self._log.close()

    def status(self, method: str, path: str, body: bytes | None = None, timeout: float = 30) -> int:
        """Of an answer; 0 without one."""
        one = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            one.request(method, path, body, {"Content-Type": "application/json"})
            return one.getresponse().status
        finally:
            one.close()

    def processes(self) -> list[int]:
        """All of its own."""
        listed = subprocess.run(["ps", "-o", "pid=", "-g", str(self.process.pid)],
                                capture_output=True, text=True, check=False).stdout  # fmt: skip
        return [int(pid) for pid in listed.split()]

    def of_bad_input(self, path: str) -> dict[str, int]:
        """What is answered to input that is wrong; 0: nothing at all."""
        tensor = {"name": "data", "datatype": "FP32", "shape": [1, 3, 227, 227], "data": [1.0]}
        bodies = {
            "no JSON": b"{",
            "no inputs": b"{}",
            "too few elements": json.dumps({"inputs": [tensor]}).encode(),
            "an unknown type": json.dumps({"inputs": [{**tensor, "datatype": "FP33"}]}).encode(),
            "2^40 rows": json.dumps(
                {"inputs": [{**tensor, "shape": [2**40, 3, 227, 227]}]}
            ).encode(),
        }
        found = {}
        for name, body in bodies.items():
            try:
                found[name] = self.status("POST", path, body)
            except (OSError, http.client.HTTPException):
                found[name] = 0
        return found
