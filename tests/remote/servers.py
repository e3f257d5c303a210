"""Real servers on loopback: S3 as a process behind a proxy that can fail, and web servers that know ranges."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import selectors
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

REQUEST = re.compile(rb"(GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1\.[01]\r\n")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running(command: list[str], answers: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A server as a process, from when it answers at the URL `answers` to the end of the block."""
    with open(log, "wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
    try:
        for _ in range(300):
            if process.poll() is not None:
                break
            with contextlib.suppress(OSError):
                urllib.request.urlopen(answers, timeout=5).close()
                yield process
                return
            time.sleep(0.1)
        raise RuntimeError(f"{command[0]} does not answer: {log.read_text()}")
    finally:
        process.terminate()
        process.wait(timeout=20)


@contextmanager
def s3_server(folder: Path) -> Iterator[int]:
    """An S3 server process; gives its port."""
    port = free_port()
    command = [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)]
    with running(command, f"http://127.0.0.1:{port}/moto-api/", folder / "s3.log"):
        yield port


@dataclass(frozen=True)
class Request:
    method: str
    target: str  # path and query
    head: str  # all headers

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]


class Proxy:
    """Passes connections on to a server, notes the requests, and can fail in the ways a network does.

    `watch` is called with each request before it is passed on; where it returns True, the connection is cut. Where it
    returns a number, so many bytes of the request are passed on and then the connection is cut.
    """

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self.requests: list[Request] = []
        self.sent = 0  # bytes from the server to clients
        self.watch: Callable[[Request], bool | int] = lambda request: False
        self._open: set[socket.socket] = set()
        self._guard = threading.Lock()
        self._listener: socket.socket | None = None
        self.up()

    def up(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def down(self) -> None:
        """Drop every connection and refuse new ones."""
        if self._listener is not None:
            # A thread that waits in accept keeps a closed socket alive.
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        with self._guard:
            for one in self._open:
                _reset(one)

    def away(self, seconds: float) -> None:
        """Be down for so long, then up again; returns at once."""
        self.down()
        threading.Timer(seconds, self.up).start()

    def forget(self) -> None:
        self.requests.clear()
        self.sent = 0

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        try:
            server = socket.create_connection(("127.0.0.1", self.target))
        except OSError:
            client.close()
            return
        with self._guard:
            self._open |= {client, server}
        left: int | None = None
        try:
            with selectors.DefaultSelector() as ready:
                ready.register(client, selectors.EVENT_READ)
                ready.register(server, selectors.EVENT_READ)
                while True:
                    for key, _ in ready.select():
                        data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                        if not data:
                            return
                        if key.fileobj is server:
                            self.sent += len(data)
                            client.sendall(data)
                            continue
                        verdict = self._noted(data)
                        if verdict is True:
                            return
                        if verdict is not False:
                            left = int(verdict)
                        if left is not None and len(data) >= left:
                            server.sendall(data[:left])
                            return
                        left = None if left is None else left - len(data)
                        server.sendall(data)
        except OSError:
            return
        finally:
            with self._guard:
                self._open -= {client, server}
            for one in (client, server):
                _reset(one)
                one.close()

    def _noted(self, data: bytes) -> bool | int:
        found = REQUEST.match(data)
        if not found:
            return False
        head = data.partition(b"\r\n\r\n")[0].decode("latin-1")
        request = Request(found[1].decode(), found[2].decode(), head)
        self.requests.append(request)
        return self.watch(request)


def _reset(one: socket.socket) -> None:
    """End a connection as a crash does: at once, with what was under way lost."""
    with contextlib.suppress(OSError):
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        one.shutdown(socket.SHUT_RDWR)


# Web servers


class RangeHandler(http.server.SimpleHTTPRequestHandler):
    """Serves files, also parts of them; `log` gets (path, first, end) of all bytes that were sent."""

    protocol_version = "HTTP/1.1"
    log: list[tuple[str, int, int]]
    listing = True
    ranges = True

    def __init__(self, *args: object, log: list[tuple[str, int, int]], listing: bool, ranges: bool, **named: object):
        self.log, self.listing, self.ranges = log, listing, ranges
        super().__init__(*args, **named)  # type: ignore[arg-type]

    def log_message(self, *args: object) -> None:
        pass

    def list_directory(self, path: object) -> object:
        if self.listing:
            return super().list_directory(path)  # type: ignore[arg-type]
        self.send_error(403)
        return None

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.log.append((self.path, 0, 0))
            super().do_GET()
            return
        data = path.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.ranges else None
        first, end = (int(asked[1]), int(asked[2] or len(data) - 1) + 1) if asked else (0, len(data))
        end = min(end, len(data))
        if first >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - first))
        self.end_headers()
        self.log.append((self.path, first, end))
        self.wfile.write(data[first:end])


@dataclass(frozen=True)
class Web:
    url: str
    log: list[tuple[str, int, int]]


@contextmanager
def web_server(folder: Path, listing: bool = True, ranges: bool = True) -> Iterator[Web]:
    """A server for the files of a folder, in this process."""
    log: list[tuple[str, int, int]] = []
    handler = partial(RangeHandler, directory=str(folder), log=log, listing=listing, ranges=ranges)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Web(f"http://127.0.0.1:{server.server_address[1]}", log)
        server.shutdown()


NGINX = """
{user}
daemon off;
pid {work}/nginx.pid;
error_log {work}/error.log;
worker_processes 1;
events {{ worker_connections 64; }}
http {{
  access_log off;
  client_body_temp_path {work}/body;
  proxy_temp_path {work}/proxy;
  fastcgi_temp_path {work}/fastcgi;
  uwsgi_temp_path {work}/uwsgi;
  scgi_temp_path {work}/scgi;
  server {{
    listen 127.0.0.1:{port};
    root {root};
    location / {{ autoindex {listing}; }}
    location = /alive {{ return 200; }}
  }}
}}
"""


def nginx_binary() -> str | None:
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@contextmanager
def nginx(folder: Path, work: Path, listing: bool) -> Iterator[str]:
    """nginx, as a process of this user; gives its URL."""
    port = free_port()
    config = work / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""  # else it could not read what only root may
    config.write_text(NGINX.format(user=user, work=work, port=port, root=folder, listing="on" if listing else "off"))
    command = [str(nginx_binary()), "-p", str(work), "-c", str(config)]
    with running(command, f"http://127.0.0.1:{port}/alive", work / "nginx.log"):
        yield f"http://127.0.0.1:{port}"
