"""`backlight serve`: models behind REST and gRPC, by the Open Inference Protocol."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ... import written
from ...errors import UsageError
from .console import show
from .options import (
    BUNDLED,
    Extra,
    Labels,
    Methods,
    PreprocessOption,
    Provider,
    Rules,
    Shape,
    Threads,
    inputs_of,
    is_bundled,
    path_given,
    shapes_of,
)

# What the extra `serve` brings; without gRPC's two, REST alone is served.
_NEEDED = ("starlette", "uvicorn", "httptools", "orjson", "prometheus_client")
_RPC = ("grpc", "google.protobuf")


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL…",
            help="ONNX files, NAME=FILE, 'bundled', and folders of .onnx, which are reloaded.",
            show_default=False,
        ),
    ] = None,
    further: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", metavar="MODEL", help="A further MODEL; repeatable."),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Where to listen; 0.0.0.0: everywhere.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(metavar="N", help="Of REST; 0: any.")] = 8000,
    grpc_port: Annotated[
        str, typer.Option(metavar="N", help="Of gRPC, or 'off'. [the one behind --port]")
    ] = "",
    rule: Rules = None,
    method: Methods = None,
    preprocess: PreprocessOption = None,
    labels: Labels = None,
    shape: Shape = None,
    input_: Extra = None,
    provider: Provider = None,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Processes that run batches. [cores, 4 at most]")
    ] = None,
    threads: Threads = None,
    batch: Annotated[int, typer.Option(metavar="N", help="Rows per run, at most.")] = 8,
    batch_wait: Annotated[
        float, typer.Option(metavar="MS", help="A row waits so long for others, at most.")
    ] = 2.0,
    queue_rows: Annotated[
        int, typer.Option(metavar="N", help="Rows that wait, at most; then 503.")
    ] = 256,
    queue_bytes: Annotated[
        str, typer.Option(metavar="M", help="Bytes of requests under way, at most; then 503.")
    ] = "1GB",
    max_body: Annotated[str, typer.Option(metavar="M", help="Of a request, at most.")] = "64MB",
    deadline: Annotated[
        float, typer.Option(metavar="S", help="For a request; then 504.")
    ] = 30.0,
    drain: Annotated[
        float, typer.Option(metavar="S", help="After SIGTERM, for what is under way.")
    ] = 30.0,
    memory: Annotated[
        str | None,
        typer.Option(metavar="M", help="Of a worker, such as 2GB. [its share of the free]"),
    ] = None,
    token_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Holds the bearer token that clients send.",
                     parser=path_given),
    ] = None,
) -> None:  # fmt: skip
    """Serve MODELs over REST and gRPC: scores, maps, and heat maps as pictures.

    Batches what comes, answers 503 where there is too much, and ends well on SIGTERM.
    """
    words = [*(models or ()), *(further or ())]
    if not words:
        raise UsageError("no MODEL; expected ONNX files, NAME=FILE, 'bundled' or folders of .onnx")
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise UsageError(f"{missing[0]} is not installed; pip install 'backlight[serve]'")
    from ...export.methods import asked
    from ...lanes import cores
    from ..runtime.budget import free_host, parse_memory
    from ..runtime.session import default_lowering, on_cpu
    from ..serve import models as served
    from ..serve.answering import Limits
    from ..serve.pool import Settings
    from ..serve.prepare import Asked
    from ..serve.server import Options, listening
    from ..serve.server import serve as run

    for name, number, least in (
        ("--workers", workers, 1), ("--threads", threads, 1), ("--batch", batch, 1),
        ("--queue-rows", queue_rows, 1), ("--batch-wait", batch_wait, 0), ("--drain", drain, 0),
    ):  # fmt: skip
        if number is not None and not least <= number < 1e6:
            raise UsageError(f"{name} {number:g}; expected {least} or more")
    if not 0.001 <= deadline < 1e6:
        raise UsageError(f"--deadline {deadline:g}; expected more than 0 seconds")
    if not 0 <= port < 65536:
        raise UsageError(f"--port {port}; expected 0 to 65535")
    default_lowering(provider or None)  # without a runtime nothing is begun
    names = asked(rule, method)
    rpc = _rpc(grpc_port, port)
    token = None if token_file is None else _token(token_file)
    found, folders = served.sources([str(_file(word)) for word in words])
    # It answers to its file's name too, which the other commands show.
    found = [replace(s, aliases=(BUNDLED.stem,)) if s.name == "bundled" else s for s in found]
    on_cores = on_cpu(provider or None)
    lanes = workers or (min(cores(), 4) if on_cores else 1)
    each = parse_memory(memory) if memory is not None else int(0.8 * free_host()) // lanes
    hard = memory is not None
    asked_for = Asked(
        names, preprocess, labels, inputs_of(input_), tuple(provider) if provider else None,
        batch, each, hard, shapes_of(shape),
    )  # fmt: skip
    settings = Settings(
        lanes, threads or (max(cores() // lanes, 1) if on_cores else None), asked_for.providers,
        each if hard else 0, max(4 * deadline, 60),
    )  # fmt: skip
    limits = Limits(parse_memory(max_body), queue_rows, parse_memory(queue_bytes), deadline, each)
    http = listening(host, port)
    if rpc is not None:
        rpc = (host, rpc[1] or (http.getsockname()[1] + 1 if port else 0), rpc[2])
    options = Options(
        found, folders, asked_for, settings, limits, batch_wait / 1000, drain, token, rpc
    )
    import signal

    if run(options, http, lambda line: show(line, flush=True)) == signal.SIGINT:
        raise KeyboardInterrupt


def _file(word: str) -> str:
    if is_bundled(word):
        return f"bundled={BUNDLED}"
    name, equals, rest = word.partition("=")
    return f"{name}={BUNDLED}" if equals and rest == "bundled" else word


def _rpc(given: str, port: int) -> tuple[str, int, bool] | None:
    """Where gRPC is served: (host, port, whether it must be); port 0: the one behind REST's."""
    if given == "off":
        return None
    there = all(find_spec(name.partition(".")[0]) is not None for name in _RPC)
    if not given:
        return ("", 0, False) if there else None
    own = written.whole(given)
    if own is None or not 0 <= own < 65536:
        raise UsageError(f"--grpc-port {given}; expected 0 to 65535, or 'off'")
    if not there:
        raise UsageError("grpcio is not installed; pip install 'backlight[serve]'")
    return "", own, True


def _token(file: Path) -> str:
    try:
        found = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as err:
        raise UsageError(f"--token-file {file}: can't be read") from err
    if not found or not found.isascii() or not found.isprintable() or " " in found:
        raise UsageError(f"--token-file {file}: expected one word of printable ASCII")
    return found
