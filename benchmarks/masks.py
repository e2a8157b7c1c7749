"""Masked variants against a plain copy of the same bytes, and against captum's way of masking.

    python -m benchmarks.masks [--json FILE] [--variants 128] [--size 224] [--pairs 15]

Each row alternates the two things it compares, after a warm-up, and gives medians and their
spread (the interquartile range over the median). The copy is the faster of one thread and all.
Where there is a GPU, the same rows are timed there with CuPy's events.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from typing import Any

import numpy as np

from backlight.kernels import apply, available_backends, get_backend, reduce, resolve
from backlight.kernels.families import rise, segments, sliding
from backlight.kernels.plan import Plan
from backlight.lanes import cores

Action = Callable[[], Any]


def alternate(actions: dict[str, Action], pairs: int, clock: Callable[[Action], float]) -> Any:
    """Median seconds and spread of each action, run in turn."""
    for _ in range(3):
        for action in actions.values():
            clock(action)
    times: dict[str, list[float]] = {name: [] for name in actions}
    for _ in range(pairs):
        for name, action in actions.items():
            times[name].append(clock(action))
    result = {}
    for name, seen in times.items():
        low, middle, high = statistics.quantiles(seen, n=4)
        result[name] = {"seconds": middle, "spread": (high - low) / middle}
    return result


def wall_clock(action: Action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def gpu_clock(cupy: Any) -> Callable[[Action], float]:
    def clock(action: Action) -> float:
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        action()
        stop.record()
        stop.synchronize()
        return float(cupy.cuda.get_elapsed_time(start, stop)) / 1e3

    return clock


def plans(size: int, n: int) -> Iterator[tuple[str, Plan]]:
    shape = (3, size, size)
    yield "windows 16/4", sliding(shape, 16, 4)
    yield "windows 64/8", sliding(shape, 64, 8)
    yield "grids 7x7", rise(shape, n)
    side = np.arange(size) * 8 // size
    labels = side[:, None] * 8 + side
    yield "segments 64", segments(shape, labels, np.random.default_rng(0).integers(0, 2, (n, 64)))


def picture(size: int, dtype: str) -> np.ndarray[Any, Any]:
    random = np.random.default_rng(0)
    if dtype == "uint8":
        return random.integers(0, 256, (3, size, size), dtype=np.uint8)
    return random.normal(0, 1, (3, size, size)).astype(dtype)


def copies(out: Any, source: Any, pool: ThreadPoolExecutor, threads: int) -> dict[str, Action]:
    """A plain copy of the same bytes: by one thread, and in slices by all."""
    parts = [slice(len(out) * t // threads, len(out) * (t + 1) // threads) for t in range(threads)]

    def all_cores() -> None:
        list(pool.map(lambda part: np.copyto(out[part], source[part]), parts))

    return {"copy, 1 thread": lambda: np.copyto(out, source), "copy, all threads": all_cores}


def against_a_copy(backend: str, size: int, n: int, pairs: int) -> Iterator[dict[str, Any]]:
    chosen = get_backend(backend)  # type: ignore[arg-type]
    xp = chosen.xp
    clock = wall_clock if backend == "cpp" else gpu_clock(xp)
    threads = cores()
    with ThreadPoolExecutor(threads) as pool:
        for name, plan in plans(size, n):
            stop = min(n, len(plan))
            for dtype in ("float32", "float16", "uint8"):
                image = xp.asarray(picture(size, dtype))
                for what in ("mean", "blur"):
                    base = resolve(what, image, xp=xp)
                    out = xp.zeros((stop, *image.shape), image.dtype)
                    source = xp.ones_like(out)
                    actions: dict[str, Action] = {
                        "apply": lambda i=image, p=plan, b=base, o=out, s=stop: apply(
                            i, p, b, o, 0, s, backend=chosen
                        )
                    }
                    if backend == "cpp":
                        actions |= copies(out, source, pool, threads)
                    else:
                        actions["copy"] = lambda o=out, s=source: xp.copyto(o, s)
                    seen = alternate(actions, pairs, clock)
                    ours = seen.pop("apply")
                    best = min(seen.values(), key=lambda r: r["seconds"])
                    yield {
                        "backend": backend,
                        "plan": name,
                        "dtype": dtype,
                        "baseline": what,
                        "bytes": int(out.nbytes),
                        "apply": ours,
                        **seen,
                        "of a copy": best["seconds"] / ours["seconds"],
                    }


def beside_captum(size: int, n: int) -> dict[str, Action]:
    """Occlusion's own mask building (captum calls it once per batch), and ours, to one buffer.

    Raises ImportError where there is no captum.
    """
    import torch
    from captum.attr import Occlusion

    image = picture(size, "float32")
    plan = sliding(image.shape, 16, 4)
    stop = min(n, len(plan))
    occlusion, counts = Occlusion(lambda x: x), tuple(plan.counts or ())
    tensor = torch.from_numpy(image)[None]
    indices = list(range(stop))

    def captum() -> Any:
        repeated = torch.cat([tensor] * stop)
        built, _ = occlusion._construct_ablated_input_across_tensors(
            (repeated,),
            (None,),  # type: ignore[arg-type]
            (0,),
            indices,
            {i: [0] for i in range(len(plan))},
            stop,
            sliding_window_tensors=(torch.ones(3, 16, 16),),
            strides=((3, 4, 4),),
            shift_counts=(counts,),
        )
        return built[0]

    base = resolve("zero", image)
    out = np.empty((stop, *image.shape), np.float32)
    ours = lambda: apply(image, plan, base, out, 0, stop)  # noqa: E731
    # captum counts rows fastest and we columns: the same masks, each in its own order.
    order = [(k % counts[1]) * counts[2] + k // counts[1] for k in indices]
    want = apply(image, plan, base)[order]
    if not np.array_equal(captum().numpy(), want):
        raise SystemExit("captum's variants differ from ours")
    return {"apply": ours, "captum": captum}


def against_captum(size: int, n: int, pairs: int) -> dict[str, Any] | None:
    """Both in turn; None where there is no captum."""
    try:
        actions = beside_captum(size, n)
    except ImportError:
        return None
    seen = alternate(actions, pairs, wall_clock)
    return {**seen, "times faster": seen["captum"]["seconds"] / seen["apply"]["seconds"]}


def reductions(size: int, pairs: int) -> Iterator[dict[str, Any]]:
    shape = (3, size, size)
    for name, plan in (("windows 16/4", sliding(shape, 16, 4)), ("grids 7x7", rise(shape, 4000))):
        for classes in (1, 10):
            values = np.random.default_rng(0).normal(size=(classes, len(plan)))
            run = {"reduce": lambda v=values, p=plan: reduce(v, p, backend="cpp")}
            seen = alternate(run, pairs, wall_clock)
            yield {"plan": name, "variants": len(plan), "classes": classes, **seen}


def machine() -> dict[str, Any]:
    model = platform.processor()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model na")]
        model = names[0] if names else model
    found: dict[str, Any] = {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    for package in ("backlight", "numpy", "torch", "captum", "cupy-cuda13x"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    if "cuda" in available_backends():
        cupy = get_backend("cuda").xp
        found["gpu"] = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", help="write the results to this file")
    parser.add_argument("--variants", type=int, default=128)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--pairs", type=int, default=15)
    given = parser.parse_args()
    report: dict[str, Any] = {"machine": machine(), "variants": given.variants, "size": given.size}
    print(", ".join(f"{k} {v}" for k, v in report["machine"].items() if v))
    print(f"\n{given.variants} variants of 3 x {given.size} x {given.size}; GB/s written")
    print(f"{'backend':8}{'plan':14}{'dtype':9}{'baseline':9}{'apply':>7}{'copy':>7}{'ratio':>7}")
    report["copy"] = []
    for backend in (b for b in available_backends() if b != "numpy"):
        for row in against_a_copy(backend, given.size, given.variants, given.pairs):
            report["copy"].append(row)
            speed = row["bytes"] / row["apply"]["seconds"] / 1e9
            print(
                f"{backend:8}{row['plan']:14}{row['dtype']:9}{row['baseline']:9}{speed:7.1f}"
                f"{speed / row['of a copy']:7.1f}{row['of a copy']:7.2f}"
            )
    report["captum"] = against_captum(given.size, given.variants, given.pairs)
    if report["captum"]:
        ours, theirs = (report["captum"][k]["seconds"] * 1e3 for k in ("apply", "captum"))
        times = report["captum"]["times faster"]
        print(f"\nwindows 16/4, float32: {ours:.1f} ms; captum: {theirs:.1f} ms; {times:.1f}x")
    report["reduce"] = list(reductions(given.size, given.pairs))
    print("\nreduce, all variants of a plan")
    for row in report["reduce"]:
        took = row["reduce"]["seconds"] * 1e3
        print(
            f"{row['plan']:14}{row['variants']:6} variants{row['classes']:4} classes{took:9.2f} ms"
        )
    if given.json:
        with open(given.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    main()
