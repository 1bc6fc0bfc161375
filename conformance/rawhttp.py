"""An HTTP/1.1 client that sends exactly the bytes it is told to, and reads exactly what was announced.

`Stdio` speaks to a process over its standard streams, as a Borg client does over ssh; `Socket` over TCP, TLS or a unix
socket. Neither adds a header, follows a redirect, tries anything again, decodes a body or guesses where one ends: a
response's body is `Content-Length` bytes, and a response without that header has none, as stock clients see it.
"""

import json
import os
import selectors
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

sys.dont_write_bytecode = True
import bed

ACCEPT = "application/vnd.x.borgstore.rest.v1"
HEADERS_LIMIT = 1 << 16  # bytes of a response's head, more than any server here sends


class Hangup(Exception):
    """The peer closed the connection, or said nothing in time, before a whole response had come; `received` is what had."""

    def __init__(self, what, received=b""):
        super().__init__(what + (f" after {received[:300]!r}" if received else ""))
        self.received = received


class Garbled(Exception):
    """What came back is no response that a stock client could read."""


@dataclass
class Response:
    status: int
    reason: str
    headers: list  # of (name as it came, value), in their order
    body: bytes
    raw: bytes  # all of it, as it came
    interim: list = field(default_factory=list)  # the statuses of 1xx responses before it

    def all(self, name):
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def header(self, name):
        """The last one of that name, as clients take it, or None."""
        return (self.all(name) or [None])[-1]

    def json(self):
        return json.loads(self.body)

    def __str__(self):
        return f"{self.status} {self.reason!r} {self.body[:120]!r}" + (f" ({len(self.body)} bytes)" if len(self.body) > 120 else "")


def request(method, target, body=None, *, headers=(), accept=ACCEPT, length=None, version="HTTP/1.1"):
    """A whole request as stock clients compose it: Accept, `headers`, Connection, and with a body (or POST and DELETE)
    its length; `accept=None` leaves Accept out, `length` announces another one than the body's, and False none."""
    lines = [f"{method} {target} {version}"]
    if accept is not None:
        lines.append(f"Accept: {accept}")
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append("Connection: keep-alive")
    if length is None and (body is not None or method in ("POST", "DELETE")):
        length = len(body or b"")
    if length is not None and length is not False:
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


class Connection:
    """One connection; a subclass gives `_read` (bytes, empty at the end) and `_write` (a count), and the descriptors."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self.received = b""  # what came and was not yet taken as part of a response
        self.ended = False  # the peer sent all it will ever send
        self.refused = False  # the peer takes no more input

    def send(self, data, timeout=60):
        """Sends all of it while taking in what comes meanwhile, so that no peer can block on its output. What the peer
        does not want any more is dropped, `refused` says so."""
        view, deadline = memoryview(data), time.monotonic() + timeout
        while view and not self.refused:
            with selectors.DefaultSelector() as selector:
                selector.register(self._writer, selectors.EVENT_WRITE)
                if self._reader == self._writer and not self.ended:
                    selector.modify(self._writer, selectors.EVENT_WRITE | selectors.EVENT_READ)
                elif not self.ended:
                    selector.register(self._reader, selectors.EVENT_READ)
                events = selector.select(max(0, deadline - time.monotonic()))
            if not events:
                raise Hangup(f"the peer took no input for {timeout} s", self.received)
            for key, mask in events:
                if mask & selectors.EVENT_READ:
                    self._take()
                if mask & selectors.EVENT_WRITE:
                    try:
                        view = view[self._write(view):]
                    except BlockingIOError:
                        pass
                    except (BrokenPipeError, ConnectionError):
                        self.refused = True

    def _take(self):
        try:
            data = self._read(1 << 20)
        except BlockingIOError:
            return
        except ConnectionError:
            data = b""
        self.received += data
        self.ended = self.ended or not data

    def _more(self, deadline):
        """Waits for more input; raises where there will be none."""
        if self.ended:
            raise Hangup("the peer hung up", self.received)
        with selectors.DefaultSelector() as selector:
            selector.register(self._reader, selectors.EVENT_READ)
            if not selector.select(max(0, deadline - time.monotonic())):
                raise Hangup("no whole response in time", self.received)
        self._take()

    def response(self, head=False, timeout=60, interim=True):
        """The next response; `head` says that it answers HEAD and so has no body whatever it announces. Interim
        responses are skipped and noted, unless `interim` is false: then one is returned like any other."""
        deadline, before, skipped = time.monotonic() + timeout, b"", []
        while True:
            while b"\r\n\r\n" not in self.received:
                if len(self.received) > HEADERS_LIMIT:
                    raise Garbled(f"no end of headers: {self.received[:300]!r}")
                self._more(deadline)
            first, self.received = self.received.split(b"\r\n\r\n", 1)
            lines = first.decode("latin-1").split("\r\n")
            words = lines[0].split(" ", 2)
            if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isdigit():
                raise Garbled(f"no status line: {lines[0]!r}")
            headers = []
            for line in lines[1:]:
                name, colon, value = line.partition(":")
                if not colon or not name or name != name.strip() or "\n" in line:
                    raise Garbled(f"no header line: {line!r}")
                headers.append((name, value.strip()))
            status = int(words[1])
            lengths = {value for name, value in headers if name.lower() == "content-length"}
            if len(lengths) > 1 or not all(length.isdigit() for length in lengths):
                raise Garbled(f"lengths {lengths}")
            if any(name.lower() == "transfer-encoding" for name, _ in headers):
                raise Garbled("a transfer encoding, which stock clients do not know")
            count = 0 if head or status < 200 else int(next(iter(lengths), 0))
            while len(self.received) < count:
                self._more(deadline)
            body, self.received = self.received[:count], self.received[count:]
            raw = before + first + b"\r\n\r\n" + body
            if interim and status < 200:
                before, skipped = raw, [*skipped, status]
                continue
            return Response(status, words[2] if len(words) > 2 else "", headers, body, raw, skipped)

    def exchange(self, data, head=None, timeout=60):
        """Sends a request and returns its response; whether it is HEAD is read from its first word."""
        self.send(data, timeout)
        return self.response(data.startswith(b"HEAD ") if head is None else head, timeout)

    def rest(self, timeout=20):
        """Everything up to the end of the connection that is no part of a response taken before."""
        deadline = time.monotonic() + timeout
        while not self.ended:
            self._more(deadline)
        left, self.received = self.received, b""
        return left


class Stdio(Connection):
    """A server process on pipes, with a process group of its own; what it says on stderr is kept."""

    def __init__(self, command, *, cwd=None, environment=None):
        self.command = [str(word) for word in command]
        self.stderr = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr,
                                        bufsize=0, start_new_session=True, env=environment)
        super().__init__(self.process.stdout.fileno(), self.process.stdin.fileno())
        for descriptor in (self._reader, self._writer):
            os.set_blocking(descriptor, False)  # of our ends only: the other end of a pipe is another description

    def _read(self, count):
        return os.read(self._reader, count)

    def _write(self, data):
        return os.write(self._writer, data)

    def end(self, timeout=20):
        """Closes the server's input and waits for its end: its exit code (or "timeout"), and what it still said."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            left = self.rest(timeout)
            code = self.process.wait(timeout)
        except (Hangup, subprocess.TimeoutExpired):
            self.kill()
            left, code = self.received, "timeout"
        self._close()
        return code, left

    def kill(self):
        bed.kill_group(self.process)
        self.process.wait()
        self._close()

    def _close(self):
        for stream in (self.process.stdin, self.process.stdout):
            if not stream.closed:
                stream.close()

    def errors(self):
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace")


class Socket(Connection):
    """A connection to `address`, a (host, port) or the path of a unix socket, over TLS if `tls` (an SSLContext) is given."""

    def __init__(self, address, *, tls=None, server_name=None, timeout=20):
        if isinstance(address, tuple):
            self.socket = socket.create_connection(address, timeout)
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        else:
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(os.fspath(address))
        self.tls = tls is not None
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_hostname=server_name or (address[0] if isinstance(address, tuple) else None))
        self.socket.setblocking(False)
        super().__init__(self.socket.fileno(), self.socket.fileno())

    def _read(self, count):
        try:
            data = self.socket.recv(count)
            # What TLS has decrypted already makes no descriptor readable.
            while self.tls and data and self.socket.pending():
                data += self.socket.recv(self.socket.pending())
            return data
        except OSError as error:
            raise self._as_blocking(error)

    def _write(self, data):
        try:
            return self.socket.send(data)
        except OSError as error:
            raise self._as_blocking(error)

    def _as_blocking(self, error):
        import ssl

        if isinstance(error, (ssl.SSLWantReadError, ssl.SSLWantWriteError)):
            return BlockingIOError()
        return ConnectionError(str(error)) if isinstance(error, ssl.SSLError) else error

    def half_close(self):
        """Nothing more will be sent; answers may still come."""
        self.socket.shutdown(socket.SHUT_WR)

    def close(self):
        self.socket.close()
