"""What receiving a request costs a server: processor time, which says the same beside other work.

    python -m benchmarks.servers.receiving [--requests 1600] [--clients 16] [--size 618000]

uvicorn's own protocol, and `backlight serve`'s connection, in turn: an application that reads the
body and answers with two bytes; clients in a process of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import subprocess
import sys
import time
from types import SimpleNamespace
from typing import Any

CLIENTS = """
import socket, sys, threading
port, each, clients, size = map(int, sys.argv[1:])
data = b"POST / HTTP/1.1\\r\\nHost: x\\r\\nContent-Length: %d\\r\\n\\r\\n" % size + bytes(size)
def client():
    with socket.create_connection(("127.0.0.1", port)) as one:
        for _ in range(each):
            one.sendall(data)
            got = b""
            while not got.endswith(b"ok"):
                got += one.recv(4096)
threads = [threading.Thread(target=client) for _ in range(clients)]
for one in threads:
    one.start()
for one in threads:
    one.join()
"""


class _Front:
    """What admits everything."""

    def __init__(self) -> None:
        self.limits = SimpleNamespace(body=1 << 30, deadline=60.0)
        self.waiting = SimpleNamespace(reserve=lambda _: None, release=lambda _: None)
        self.turns = asyncio.Semaphore(16)

    def admit(self) -> None:
        """Always."""

    async def apart(self, call: Any, *args: Any) -> Any:
        """In a thread."""
        return await asyncio.get_running_loop().run_in_executor(None, call, *args)


async def measured(http: Any, requests: int, clients: int, size: int) -> float:
    """Milliseconds of processor time a request, of this process. http: uvicorn's setting."""
    import uvicorn
    from starlette.requests import Request

    from backlight.engine.serve.bodies import Body

    front: Any = _Front()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert len(await Body(front, Request(scope, receive)).read()) == size
        start = {"type": "http.response.start", "status": 200}
        await send({**start, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok"})

    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(app, http=http, log_config=None, access_log=False, lifespan="off",
                                interface="asgi3", proxy_headers=False)  # fmt: skip
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await asyncio.sleep(0.3)
        words = map(str, (listener.getsockname()[1], requests // clients, clients, size))
        asking = subprocess.Popen([sys.executable, "-c", CLIENTS, *words])
        begun = time.process_time()
        while asking.poll() is None:
            await asyncio.sleep(0.05)
        spent = time.process_time() - begun
        server.should_exit = True
        await serving
    assert asking.returncode == 0
    return 1000 * spent / (requests // clients * clients)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1600)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--size", type=int, default=618_000)
    given = parser.parse_args()
    import uvloop

    from backlight.engine.serve.connection import Connection

    for _ in range(3):
        for name, http in (("uvicorn", "httptools"), ("backlight", Connection)):
            spent = uvloop.run(measured(http, given.requests, given.clients, given.size))
            print(f"{name:10}{spent:8.3f} ms a request of {given.size} bytes", flush=True)


if __name__ == "__main__":
    main()
