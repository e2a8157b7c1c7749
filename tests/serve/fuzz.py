"""Requests that nobody would send on purpose, against a running server.

    python -m tests.serve.fuzz --requests 20000

starts `backlight serve bundled` and sends it mutated binary requests: each gets an answer, no
answer is a 5xx but 503 and 504, errors are one line of JSON, and neither memory nor open files
grow.
"""

from __future__ import annotations

import argparse
import copy
import http.client
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from .running import Server

__all__ = ["Outcome", "campaign", "mutated"]

PHOTOS = Path(__file__).parents[2] / "engine" / "assets" / "photos"
ODD: tuple[Any, ...] = (
    -1, 0, 1, 2, 3, 227, 1000, 2**31, 2**40, 2**63, -(2**63), 1.5, 1e300, "", "x", None, True, [],
    {}, [[]], "NaN", "\u0000", "\ud83d\ude00", [1, 3, 227, 227], {"b64": "x"},
)  # fmt: skip
KEYS = ("name", "datatype", "shape", "data", "parameters", "binary_data_size", "id", "inputs",
        "outputs", "binary_data", "target", "timeout", "classification")  # fmt: skip
NAMES = ("data", "image", "target", "contrast", "prob", "saliency_guided", "heatmap_gradcam", "x")
TYPES = ("FP32", "INT64", "BYTES", "FP16", "BOOL", "UINT8", "FP64", "BF16")
Request = tuple[bytes, dict[str, str], str]


def _tensor(name: str, datatype: str, shape: list[int], data: bytes) -> tuple[Any, bytes]:
    told = {"name": name, "datatype": datatype, "shape": shape,
            "parameters": {"binary_data_size": len(data)}}  # fmt: skip
    return told, data


def _seeds(rng: random.Random) -> tuple[dict[str, Any], list[bytes]]:
    """A request that is right: an image or a picture, a target, some outputs."""
    rows = rng.choice((1, 1, 1, 2))
    if rng.random() < 0.3:
        picture = (PHOTOS / "coffee.jpg").read_bytes()
        raw = (len(picture).to_bytes(4, "little") + picture) * rows
        parts = [_tensor("image", "BYTES", [rows], raw)]
    else:
        image = np.zeros((rows, 3, 227, 227), np.float32)
        parts = [_tensor("data", "FP32", [rows, 3, 227, 227], image.tobytes())]
    if rng.random() < 0.5:
        parts.append(_tensor("target", "INT64", [rows], np.full(rows, 5).tobytes()))
    names = rng.sample(("prob", "target", "heatmap_gradcam", "saliency_gradcam"), rng.randint(1, 2))
    said = {"inputs": [p[0] for p in parts], "outputs": [{"name": n} for n in names],
            "parameters": {"binary_data_output": rng.random() < 0.5}}  # fmt: skip
    return said, [p[1] for p in parts]


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container in a JSON value, with a key into it."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, inner in items:
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from _places(inner)


def _change_json(rng: random.Random, said: dict[str, Any]) -> None:
    holder, key = rng.choice(list(_places(said)))

    def odd() -> Any:
        return copy.deepcopy(rng.choice(ODD))  # else the next mutation would change ODD itself

    what = rng.randrange(6)
    if what == 0:
        holder[key] = odd()
    elif what == 1:
        del holder[key]
    elif what == 2 and isinstance(holder, dict):
        holder[rng.choice(KEYS)] = odd()
    elif what == 3 and isinstance(holder, list):
        holder.append(holder[key])
    elif what == 4:
        holder[key] = rng.choice((*NAMES, *TYPES))
    else:
        holder[key] = [odd() for _ in range(rng.randint(0, 4))]


def _change_raw(rng: random.Random, raw: bytearray) -> None:
    if not raw:
        raw += rng.randbytes(9)
        return
    what = rng.randrange(5)
    at = rng.randrange(len(raw))
    if what == 0:
        for _ in range(rng.randint(1, 30)):
            raw[rng.randrange(len(raw))] = rng.randrange(256)
    elif what == 1:
        del raw[at:]
    elif what == 2:
        raw += rng.randbytes(rng.randint(1, 64))
    elif what == 3:
        raw[:4] = rng.choice((b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0\xc0\x7f", b"\0\0\x80\x7f"))
    else:
        raw[at : at + 4] = b"\0\0\xc0\x7f"  # a NaN, as FP32


def mutated(seed: int) -> Request:
    """A request: body, headers, path."""
    rng = random.Random(seed)
    said, raws = _seeds(rng)
    raw = bytearray(b"".join(raws))
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        if rng.random() < 0.6 and list(_places(said)):
            _change_json(rng, said)
        else:
            _change_raw(rng, raw)
    text = json.dumps(said).encode("utf-8", "surrogatepass")
    if rng.random() < 0.05:
        at = rng.randrange(len(text))
        text = text[:at] + rng.randbytes(1) + text[at + 1 :]
    header = str(len(text))
    if rng.random() < 0.1:
        header = rng.choice(
            ("0", "-1", "1e3", "9" * 25, "", str(len(text) + 1), str(len(text) - 1))
        )
    path = "/v2/models/bundled/infer"
    if rng.random() < 0.1:
        path = rng.choice(("/v2/models/bundled/explain", "/v2/models/bundled/versions/1/infer",
                           "/v2/models/x/infer", "/v2/models/bundled/versions/7/infer",
                           "/v1/models/bundled:explain", "/v2/models//infer"))  # fmt: skip
    return text + bytes(raw), {"Inference-Header-Content-Length": header}, path


class Outcome:
    """What came of a campaign. wrong: answers that should never be, with the seeds they are of."""

    def __init__(self) -> None:
        self.statuses: Counter[int] = Counter()
        self.wrong: list[str] = []

    def take(self, seed: int, status: int, body: bytes, seconds: float) -> None:
        """One answer."""
        self.statuses[status] += 1
        lost = status == 503 and b"lost" in body  # no worker should end of a request
        if lost or (status >= 500 and status not in (503, 504)):
            self.wrong.append(f"seed {seed}: {status} {body[:200]!r}")
        elif status >= 400:
            try:
                told = json.loads(body)
                fine = list(told) == ["error"] and "\n" not in told["error"]
            except ValueError:
                fine = False
            if not fine or b"Traceback" in body:
                self.wrong.append(f"seed {seed}: {status} {body[:200]!r}")
        if seconds > 60:
            self.wrong.append(f"seed {seed}: {seconds:.0f} seconds")


def campaign(
    server: Server, seeds: range, clients: int = 4, tell: Callable[[int], None] = lambda _: None
) -> Outcome:
    """Send the seeds' requests, on connections that are kept as long as the server keeps them."""
    outcome = Outcome()

    def work(mine: range) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=120)
        for seed in mine:
            body, headers, path = mutated(seed)
            begun = time.monotonic()
            try:
                connection.request("POST", path, body, headers)
                response = connection.getresponse()
                outcome.take(seed, response.status, response.read(), time.monotonic() - begun)
            except (OSError, http.client.HTTPException) as err:
                outcome.wrong.append(f"seed {seed}: no answer: {type(err).__name__} {err}")
                connection.close()
            tell(seed)
        connection.close()

    with ThreadPoolExecutor(clients) as pool:
        for done in [pool.submit(work, seeds[n::clients]) for n in range(clients)]:
            done.result()
    return outcome


def held(server: Server) -> tuple[float, int]:
    """Memory in MB of the server and its workers, and the server's open files."""
    pages = 0
    for pid in (server.process.pid, *server.workers()):
        pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, files


def quiet(server: Server) -> bool:
    """Whether nothing is left of the requests: no row and no byte in the queue."""
    text = server.get("/metrics").bytes.decode()
    return "backlight_queue_rows 0.0" in text and "backlight_queue_bytes 0.0" in text


def main() -> int:
    """The command. Exit code 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with Server("bundled", "--method", "gradcam", "--method", "guided") as server:
        total = Outcome()
        for at in range(10):
            size = given.requests // 10
            first = given.seed + at * size
            part = campaign(server, range(first, first + size))
            total.statuses += part.statuses
            total.wrong += part.wrong
            memory, files = held(server)
            print(f"{(at + 1) * size} requests, {dict(sorted(total.statuses.items()))}, "
                  f"{memory:.0f} MB, {files} files", flush=True)  # fmt: skip
        if not quiet(server):
            total.wrong.append("something is left in the queue")
        failures = [*server.events("failure"), *server.events("worker")]
        code = server.end()
    for line in (*total.wrong, *map(str, failures)):
        print(line)
    return int(bool(total.wrong or failures or code))


if __name__ == "__main__":
    sys.exit(main())
