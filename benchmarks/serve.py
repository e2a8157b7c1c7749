"""`backlight serve` under load, against the bare session in the same run.

    python -m benchmarks.serve [--json FILE] [--seconds 10] [--clients 1 4 16 64 256]
    python -m benchmarks.serve --model resnet50.onnx --preprocess imagenet-torch
    python -m benchmarks.serve --peer prototype --peer kserve=ENV/bin/python \\
        --peer mlserver=ENV/bin/python
    python -m benchmarks.serve --soak 10
    python -m benchmarks.serve --overload

A server process with the bundled SqueezeNet and Grad-CAM, and clients in this one: so many
connections, each sending its next request when it has its answer. The same image as a raw tensor,
as JSON and as JPEG; scores alone, and explained (a Grad-CAM map as a raw tensor). Beside each
series, images/s of the bare sessions: one thread each, as many as cores, runs of as many rows as
the server's workers take, nothing else. `x bare` is the ratio of the two, taken in turn. `ms` are
CPU time of an answer: of the server, its workers, and the clients here, which share its cores.

`--peer`: in the same run the prototype (`benchmarks/servers`), KServe and MLServer, each in its own
environment (`pip install kserve onnxruntime`; `pip install mlserver onnxruntime 'uvloop<0.22'`), at
`--peer-clients`: JSON, and raw tensors where they have them.

`--overload`: ten times the clients that the queue has room for: every request gets an answer, and
how long the probes take meanwhile. `--soak MINUTES`: overload and mutated requests for so long:
memory (of the server and of its workers) and open files at the end of each minute, answers lost,
and the longest probe.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from backlight.engine.cli.options import BUNDLED, PHOTOS
from backlight.lanes import cores
from tests.serve.running import Server, binary

from .servers.peers import FORMS, Peer, interpreters

PATH = "/v2/models/bundled/infer"
METHOD = "gradcam"
ROWS = 8
# Seconds beyond a load's end, after which a request counts as lost.
PATIENCE = 30.0


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


def messages(model: Path = BUNDLED, preprocess: str | None = None) -> dict[tuple[str, str], bytes]:
    """A request of each kind, by its form and by what it asks for."""
    import backlight

    photo = PHOTOS / "coffee.jpg"
    explainer = backlight.Explainer(model, methods=[METHOD], providers="cpu")
    image, name = explainer.load([photo], preprocess), explainer.input.name
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
        found["json", asked] = message(
            json.dumps(told).encode(), {"Content-Type": "application/json"}
        )
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
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            size = int(line.split(b":")[1])
        elif line.startswith(b"transfer-encoding:") and b"chunked" in line:
            while piece := int(await reader.readuntil(b"\r\n"), 16):
                await reader.readexactly(piece + 2)
            size = 2
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
                left = max(end - time.perf_counter(), 0) + PATIENCE
                status = await asyncio.wait_for(_answer(reader), left)
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
        one = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=20)
        try:
            one.request("GET", path)
            one.getresponse().read()
        except OSError:  # it counts as what it took
            pass
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


def cpu(processes: Iterable[int]) -> float:
    """Seconds of CPU time that processes have taken."""
    ticks = 0
    for pid in processes:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        user, system = fields.rpartition(")")[2].split()[11:13]
        ticks += int(user) + int(system)
    return ticks / os.sysconf("SC_CLK_TCK")


def measured(
    port: int, data: bytes, clients: int, seconds: float, alone: Callable[[], float],
    every: Mapping[str, list[int]],
) -> dict[str, Any]:  # fmt: skip
    """A row of the table. alone: images/s of the bare sessions, before and after; every:
    processes, by what they do."""
    before = alone()
    spent = {name: cpu(pids) for name, pids in every.items()}
    here = time.process_time()
    load, probes = loaded(port, data, clients, seconds)
    own = time.process_time() - here
    took = {name: cpu(pids) - spent[name] for name, pids in every.items()} | {"clients": own}
    bare = statistics.mean((before, alone()))
    answers = max(sum(load.statuses.values()), 1)
    return {
        "clients": clients, "images_per_s": load.rate, "bare_images_per_s": bare,
        "ratio": load.rate / bare, "p50_ms": load.quantile(0.5), "p90_ms": load.quantile(0.9),
        "p99_ms": load.quantile(0.99), "statuses": dict(load.statuses), "lost": load.lost,
        "probe_p99_ms": 1000 * float(np.quantile(probes, 0.99)),
        "cpu_ms": {name: 1000 * s / answers for name, s in took.items()},
    }  # fmt: skip


HEADS = ("clients", "images/s", "x bare", "p50 ms", "p90 ms", "p99 ms", "503", "lost", "probe p99")


def shown(name: str, row: Mapping[str, Any]) -> None:
    """A row, as a line."""
    figures = [f"{row[k]:10.1f}" for k in ("p50_ms", "p90_ms", "p99_ms")]
    spent = ", ".join(f"{name} {ms:.1f}" for name, ms in row["cpu_ms"].items())
    print(
        f"{name:20}{row['clients']:10}{row['images_per_s']:10.1f}{row['ratio']:10.2f}", *figures,
        f"{row['statuses'].get(503, 0):10}{row['lost']:10}{row['probe_p99_ms']:10.1f}  ms: {spent}",
        sep="", flush=True,
    )  # fmt: skip


class Bare:
    """The bare sessions: scores, and scores with the map."""

    def __init__(self, model: Path, preprocess: str | None = None) -> None:
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
        image = explainer.load([photo], preprocess)
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


def throughput(
    model: Path, preprocess: str | None, clients: list[int], seconds: float
) -> list[dict[str, Any]]:
    """Every form and question at so many clients, and the bare sessions before and after."""
    bare, rows = Bare(model, preprocess), []
    told = () if preprocess is None else ("--preprocess", preprocess)
    print(f"{'':20}" + "".join(f"{head:>10}" for head in HEADS))
    with server(*told, model=model) as running:
        every = {"server": [running.process.pid], "workers": running.workers()}
        for (form, asked), data in messages(model, preprocess).items():
            loaded(running.port, data, 4, 1)
            for count in clients:
                alone = partial(bare.rate, asked, seconds / 3)
                row = measured(running.port, data, count, seconds, alone, every)
                rows.append({"form": form, "asked": asked, **row})
                shown(f"{form} {asked}", row)
    return rows


def compared(
    model: Path, preprocess: str | None, clients: list[int], seconds: float,
    pythons: Mapping[str, str],
) -> list[dict[str, Any]]:  # fmt: skip
    """The other servers, as the server above."""
    import onnx

    import backlight

    bare, rows = Bare(model, preprocess), []
    with tempfile.TemporaryDirectory(prefix="backlight-peers-") as home:
        explaining = Path(home, "explaining.onnx")
        onnx.save(backlight.export(model, methods=[METHOD], for_="cpu"), explaining)
        for name, python in pythons.items():
            print(f"{name:20}" + "".join(f"{head:>10}" for head in HEADS))
            with Peer(name, python, model, explaining, Path(home, name)) as peer:
                every = {"server": peer.processes()}
                wrong = peer.of_bad_input(PATH)
                for (form, asked), data in messages(model, preprocess).items():
                    if form not in FORMS[name]:
                        continue
                    loaded(peer.port, data, 4, 1)
                    for count in clients:
                        alone = partial(bare.rate, asked, seconds / 3)
                        row = measured(peer.port, data, count, seconds, alone, every)
                        rows.append({"peer": name, "form": form, "asked": asked, **row})
                        shown(f"{form} {asked}", row)
                print(f"{'bad input':20}{wrong}")
                rows.append({"peer": name, "bad_input": wrong})
    return rows


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--model", type=Path, default=BUNDLED, help="For the throughput.")
    parser.add_argument("--preprocess", help="For a model that doesn't say how: as of `serve`.")
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON")
    parser.add_argument("--peer-clients", type=int, nargs="+", default=[16, 60])
    parser.add_argument("--overload", action="store_true")
    parser.add_argument("--soak", type=float, metavar="MINUTES")
    given = parser.parse_args()
    from .servers.soak import overload, soak

    pythons = interpreters(given.peer)
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
        result["throughput"] = throughput(
            given.model, given.preprocess, given.clients, given.seconds
        )
        if pythons:
            result["peers"] = compared(
                given.model, given.preprocess, given.peer_clients, given.seconds, pythons
            )
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
