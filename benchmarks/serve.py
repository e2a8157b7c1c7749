"""`backlight serve` under load, against the bare session in the same run.

    python -m benchmarks.serve [--json FILE] [--seconds 10] [--clients 1 4 16 64 256]
    python -m benchmarks.serve --soak 10
    python -m benchmarks.serve --overload

A server process with the bundled SqueezeNet and Grad-CAM, and clients in this one: so many
connections, each sending its next request when it has its answer. The same image as a raw tensor,
as JSON and as JPEG; scores alone, and explained (a Grad-CAM map as a raw tensor). Beside each
series, images/s of the bare sessions: one thread each, as many as cores, runs of as many rows as
the server's workers take, nothing else. `x bare` is the ratio of the two, taken in turn.

`--overload`: ten times the clients that the queue has room for: every request gets an answer, and
how long the probes take meanwhile. `--soak MINUTES`: overload and mutated requests for so long:
memory and open files at its beginning and end, and how many answers were lost.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.lanes import cores
from tests.serve.fuzz import held, mutated
from tests.serve.running import Server, binary

PATH = "/v2/models/bundled/infer"
METHOD = "gradcam"
ROWS = 8


@dataclass
class Load:
    """What came of a load. seconds: of each answer with 200; statuses: of all; lost: requests
    without an answer."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    lost: int = 0
    took: float = 0.0

    @property
    def rate(self) -> float:
        """Answers with 200 a second."""
        return self.statuses[200] / self.took if self.took else 0.0

    def quantile(self, share: float) -> float:
        """Of the seconds, in ms."""
        if not self.seconds:
            return float("nan")
        return 1000 * float(np.quantile(self.seconds, share))


def message(
    body: bytes, headers: Mapping[str, str], path: str = PATH, method: str = "POST"
) -> bytes:
    """A request as it goes over the wire."""
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"{k}: {v}" for k, v in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def messages(model: Path = BUNDLED) -> dict[tuple[str, str], bytes]:
    """A request of each kind, by its form and by what it asks for."""
    import backlight

    photo = PHOTOS / "coffee.jpg"
    explainer = backlight.Explainer(model, methods=[METHOD], providers="cpu")
    image, name = explainer.load([photo]), explainer.input.name
    score = explainer.score_output
    picture = photo.read_bytes()
    found = {}
    for asked, names in (("scores", [score]), ("explained", [score, f"saliency_{METHOD}"])):
        raw_out: dict[str, Any] = {
            "outputs": [{"name": n} for n in names], "parameters": {"binary_data_output": True},
        }  # fmt: skip
        found["binary", asked] = message(*binary([(name, "FP32", image)], **raw_out))
        listed = {"name": name, "datatype": "FP32", "shape": list(image.shape),
                  "data": [round(float(v), 4) for v in image.ravel()]}  # fmt: skip
        told = {"inputs": [listed], "outputs": raw_out["outputs"]}
        found["json", asked] = message(json.dumps(told).encode(), {})
        framed = len(picture).to_bytes(4, "little") + picture
        found["jpeg", asked] = message(*binary([("image", "BYTES", framed)], shape=[1], **raw_out))
    text = base64.b64encode(picture).decode()
    told = {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [text]}]}
    assert len(json.dumps(told)) < len(found["json", "scores"])
    return found


async def _answer(reader: asyncio.StreamReader) -> int:
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    size = 0
    for line in head.split(b"\r\n"):
        if line.lower().startswith(b"content-length:"):
            size = int(line.split(b":")[1])
    await reader.readexactly(size)
    return status


async def _client(port: int, data: bytes, end: float, load: Load) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    try:
        while time.perf_counter() < end:
            begun = time.perf_counter()
            try:
                writer.write(data)
                await writer.drain()
                status = await asyncio.wait_for(_answer(reader), 120)
            except (OSError, asyncio.IncompleteReadError, TimeoutError):
                load.lost += 1
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
                continue
            load.statuses[status] += 1
            if status == 200:
                load.seconds.append(time.perf_counter() - begun)
            else:
                await asyncio.sleep(0.05)  # a client that tries again at once measures refusals
    finally:
        writer.close()


PROBE = """
import http.client, json, signal, sys, time
seconds, going = [], True
def stop(*_):
    global going
    going = False
signal.signal(signal.SIGTERM, stop)
print("begun", flush=True)
while going:
    for path in ("/v2/health/live", "/v2/health/ready"):
        begun = time.perf_counter()
        one = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
        one.request("GET", path)
        assert one.getresponse().read()
        one.close()
        seconds.append(time.perf_counter() - begun)
    time.sleep(0.1)
print(json.dumps(seconds))
"""


@contextmanager
def probed(port: int, seconds: list[float]) -> Iterator[None]:
    """Liveness and readiness meanwhile, as a kubelet asks: on new connections, by a process of its
    own, as the clients here keep this one busy."""
    command = [sys.executable, "-c", PROBE, str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as asking:
        assert asking.stdout is not None and asking.stdout.readline() == "begun\n"
        yield
        asking.terminate()
        seconds += json.loads(asking.stdout.read())


def loaded(port: int, data: bytes, clients: int, seconds: float) -> tuple[Load, list[float]]:
    """So many clients for so long; what came of it, and the probes' seconds."""
    load, probes = Load(), list[float]()

    async def run() -> None:
        end = time.perf_counter() + seconds
        begun = time.perf_counter()
        work = [_client(port, data, end, load) for _ in range(clients)]
        await asyncio.gather(*work)
        load.took = time.perf_counter() - begun

    with probed(port, probes):
        asyncio.run(run())
    return load, probes


class Bare:
    """The bare sessions: scores, and scores with the map."""

    def __init__(self, model: Path) -> None:
        import backlight
        from backlight.engine.runtime.session import Session

        self.lanes = min(cores(), 4)
        threads = max(cores() // self.lanes, 1)
        explaining = backlight.export(model, methods=[METHOD], for_="cpu")
        self.sessions = {
            "scores": [Session(model, "cpu", threads) for _ in range(self.lanes)],
            "explained": [Session(explaining, "cpu", threads) for _ in range(self.lanes)],
        }
        photo = PHOTOS / "coffee.jpg"
        explainer = backlight.Explainer(model, methods=[METHOD], providers="cpu")
        image = explainer.load([photo])
        self.name, self.scores = explainer.input.name, explainer.score_output
        self.image = np.repeat(image, ROWS, axis=0)

    def rate(self, asked: str, seconds: float) -> float:
        """Images/s."""
        feeds = {self.name: self.image}
        outputs = [self.scores]
        if asked == "explained":
            feeds["target"] = np.full(ROWS, -1)
            outputs.append(f"saliency_{METHOD}")
        end = time.perf_counter() + seconds

        def lane(session: Any) -> int:
            done = 0
            while time.perf_counter() < end:
                session.run(feeds, outputs)
                done += ROWS
            return done

        begun = time.perf_counter()
        with ThreadPoolExecutor(self.lanes) as pool:
            done = sum(pool.map(lane, self.sessions[asked]))
        return done / (time.perf_counter() - begun)


def server(*more: str, model: Path = BUNDLED) -> Server:
    """The server that is measured."""
    return Server(f"bundled={model}", "--method", METHOD, "--batch", str(ROWS), *more)


def throughput(model: Path, clients: list[int], seconds: float) -> list[dict[str, Any]]:
    """Every form and question at so many clients, and the bare sessions before and after."""
    bare, rows = Bare(model), []
    heads = ("images/s", "x bare", "p50 ms", "p90 ms", "p99 ms", "503", "lost", "probe p99")
    print(f"{'':19}{'clients':>8}" + "".join(f"{head:>10}" for head in heads))
    with server(model=model) as running:
        for (form, asked), data in messages(model).items():
            loaded(running.port, data, 4, 1)
            for count in clients:
                before = bare.rate(asked, seconds / 3)
                load, probes = loaded(running.port, data, count, seconds)
                alone = statistics.mean((before, bare.rate(asked, seconds / 3)))
                rows.append({
                    "form": form, "asked": asked, "clients": count, "images_per_s": load.rate,
                    "bare_images_per_s": alone, "ratio": load.rate / alone,
                    "p50_ms": load.quantile(0.5), "p90_ms": load.quantile(0.9),
                    "p99_ms": load.quantile(0.99), "statuses": dict(load.statuses),
                    "lost": load.lost, "probe_p99_ms": 1000 * float(np.quantile(probes, 0.99)),
                })  # fmt: skip
                row = rows[-1]
                figures = [f"{row[k]:10.1f}" for k in ("p50_ms", "p90_ms", "p99_ms")]
                print(
                    f"{form:8}{asked:11}{count:8}{load.rate:10.1f}{row['ratio']:10.2f}",
                    *figures, f"{load.statuses[503]:10}{load.lost:10}{row['probe_p99_ms']:10.1f}",
                    sep="", flush=True,
                )  # fmt: skip
    return rows


def overload(seconds: float) -> dict[str, Any]:
    """Ten times the clients that the queue holds rows."""
    room = 24
    with server("--queue-rows", str(room)) as running:
        load, probes = loaded(running.port, messages()["binary", "explained"], 10 * room, seconds)
        code = running.end()
    found = {
        "clients": 10 * room, "queue_rows": room, "statuses": dict(load.statuses),
        "lost": load.lost, "probe_max_ms": 1000 * max(probes), "exit_code": code,
        "probe_p99_ms": 1000 * float(np.quantile(probes, 0.99)),
    }  # fmt: skip
    print(f"{10 * room} clients for {room} rows: {dict(load.statuses)}, {load.lost} lost; probes "
          f"{found['probe_p99_ms']:.0f} ms (p99), {found['probe_max_ms']:.0f} at most")  # fmt: skip
    return found


def soak(minutes: float) -> dict[str, Any]:
    """Overload and mutated requests, and what is held meanwhile."""
    every = list(messages().values())
    rng = random.Random(0)
    marks = []
    statuses: Counter[int] = Counter()
    lost = 0
    with server("--queue-rows", "24") as running:
        end = time.monotonic() + 60 * minutes
        slice_ = max(min(10.0, 60 * minutes / 6), 1.0)
        seed = 0
        while time.monotonic() < end:
            load, probes = loaded(running.port, rng.choice(every), rng.choice((1, 16, 240)), slice_)
            statuses += load.statuses
            lost += load.lost
            for _ in range(40):
                seed += 1
                body, headers, path = mutated(seed)
                answer = running.call("POST", path, body, headers)
                statuses[answer.status] += 1
            memory, files = held(running)
            marks.append({"minutes": minutes - (end - time.monotonic()) / 60, "mb": memory,
                          "files": files, "probe_max_ms": 1000 * max(probes)})  # fmt: skip
            print(f"{marks[-1]['minutes']:6.1f} min {memory:8.0f} MB {files:4} files, probes "
                  f"{marks[-1]['probe_max_ms']:.0f} ms at most, {dict(sorted(statuses.items()))}, "
                  f"{lost} lost", flush=True)  # fmt: skip
        failures = running.events("failure") + running.events("worker")
        code = running.end()
    return {"minutes": minutes, "marks": marks, "statuses": dict(statuses), "lost": lost,
            "failures": failures, "exit_code": code}  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--model", type=Path, default=BUNDLED, help="For the throughput.")
    parser.add_argument("--overload", action="store_true")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    given = parser.parse_args()
    result: dict[str, Any] = {
        "model": given.model.stem,
        "device": f"{platform.processor() or platform.machine()}, {cores()} cores",
        "python": platform.python_version(),
        "versions": {p: version(p) for p in ("onnxruntime", "starlette", "uvicorn", "numpy")},
    }
    if given.soak:
        result["soak"] = soak(given.soak)
    elif given.overload:
        result["overload"] = overload(given.seconds)
    else:
        result["throughput"] = throughput(given.model, given.clients, given.seconds)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
