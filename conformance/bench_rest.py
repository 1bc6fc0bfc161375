"""The sections of bench.py for the REST dialect, over standard streams and over the network.

The originals are `borg serve --rest` of 2.0.0b25 and `borgstore-server-rest` (0.7.0) of the same environment; over standard
streams the two differ in their start only. The limit is `cp` and `cat` there, and over the network nginx: static GET, and dav
PUT, which hashes nothing. What is stored carries its SHA-256, which ours and the original verify, and is named as packs are.

Small requests over the network are wrk's, with one exception: the original sends head and body of an answer apart, without
TCP_NODELAY, and so waits 40 ms for the acknowledgement of whoever delays it. That would hide how fast it is, so its GETs are a
client's that acknowledges at once. Large ones are the same client's for all. Nobody logs requests. Servers, client and load
share the cores: with more connections the figures are those of the machine, not of a server alone.

Our network server is another program, borg-serve-net, beside the server or in ../libexec/borg-serve; where it is missing, or
nginx or wrk, the sections of the network are SKIPPED.
"""

import functools
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import bed
import measure
import rawhttp
from measure import MIB, Figures, Goal, cpu_of, memory_of

ORIGINAL_VERSION = "2.0.0b25"
BUFFER = MIB  # bytes read at once
MEGABYTE = 1_000_000


class REST:
    def __init__(self, bench):
        self.bench, self.options, self.place = bench, bench.options, bench.place
        self.original = os.path.abspath(self.options.original_rest or bed.client_path(ORIGINAL_VERSION))
        self.borgstore = str(Path(self.original).with_name("borgstore-server-rest"))
        self.servers = {"original": self.original, "ours": self.options.server}
        self.figures = Figures(self.servers, judged=not bench.quick)
        self.note = self.figures.note
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(bench.place.path), "LANG": "C.UTF-8", "BORG_BASE_DIR": str(bench.place / "home")}
        self.small_count, self.packs = (1000, 2) if bench.quick else (10000, 8)
        self.seconds = 1 if bench.quick else 3  # of load by wrk
        self.sections = {"rest-start": self.start, "rest-small": self.small, "rest-big": self.big, "rest-defrag": self.defrag,
                         "rest-client": self.client, "net-small": self.network_small, "net-big": self.network_big, "net-many": self.network_many}

    # --- standard streams -------------------------------------------------------------------------------------------------

    def command(self, name, repository):
        return [self.servers[name], "serve", "--rest", "--backend", f"FILE:{repository}"]

    def stdio(self, command):
        """A server that has started, for whatever is measured without its start."""
        server = Stdio(command, self.place.path, self.environment)
        server.answers("HEAD", "/")
        return server

    def start(self, _):
        repository = self.place.directory("started")
        commands = {("original", "`borg serve --rest`"): self.command("original", repository),
                    ("original", "`borgstore-server-rest --stdio`"): [self.borgstore, "--stdio", "--backend", f"FILE:{repository}"]}
        for _ in range(2 if self.bench.quick else 10):
            for (name, which), command in [*commands.items(), *((("ours", which), self.command("ours", repository)) for _, which in commands)]:
                started = time.perf_counter()
                with Stdio(command, self.place.path, self.environment) as server:
                    server.expect(404, "HEAD", "/config/config")
                    self.note(f"stdio: start to first answer, original: {which}, ms", name, (time.perf_counter() - started) * 1000, Goal(most=6))
                    self.note(f"stdio: resident when idle, original: {which}, MB", name, memory_of(server.process.pid, "VmRSS") / 1000, Goal(most=12))

    def small(self, run):
        count = self.small_count
        label = f"stdio: {count:,} × 1 KiB"
        for name in self.bench.order(run):
            directory, end = self.bench.disk()
            command = self.command(name, directory / "repository")
            put = measure.feed(command, self.stream("put"), directory, self.environment)
            self.prove(name, directory / "repository", count)
            self.note(f"{label} POST from a file, with start and end, s", name, put.seconds)
            self.note(f"{label} POST from a file, CPU s", name, put.cpu)
            get = measure.feed(command, self.stream("get"), directory, self.environment)
            self.note(f"{label} GET from a file, with start and end, s", name, get.seconds)
            self.note(f"{label} GET from a file, CPU s", name, get.cpu)
            with self.stdio(command) as server:
                requests = [hashed_post(f"/{pack_name(number)}", small_body(number)) for number in range(count, count + count // 5)]
                self.note("stdio: 1 KiB POST, one after another, µs each", name, each(server, requests) * 1e6)
                requests = [[rawhttp.request("GET", f"/{pack_name(number)}")] for number in range(count // 5)]
                self.note("stdio: 1 KiB GET, one after another, µs each", name, each(server, requests) * 1e6)
                for number in range(0, count + count // 5, 50):
                    if server.expect(200, "GET", f"/{pack_name(number)}") != small_body(number):
                        bed.die(f"{name} delivered something else")
            end()

    def stream(self, phase):
        path = self.place / f"rest-small.{phase}"
        if not path.exists():
            with open(path, "wb") as out:
                if phase == "put":
                    out.write(rawhttp.request("POST", "/?cmd=create") + rawhttp.request("POST", "/config/config", CONFIGURATION))
                for number in range(self.small_count):
                    name = f"/{pack_name(number)}"
                    out.write(b"".join(hashed_post(name, small_body(number))) if phase == "put" else rawhttp.request("GET", name))
        return path

    def prove(self, name, repository, count):
        stored = sum(len(names) for _, _, names in os.walk(repository / "packs"))
        if stored != count:
            bed.die(f"{name} stored {stored} of {count} objects")

    def big(self, run):
        """50 MB packs through pipes, as sshd makes them; then one object of 100 MB, for the memory."""
        pack, count = os.urandom(50 * MEGABYTE), self.packs
        rows = ["stdio: POST of a pack of 50 MB, to its answer, ms (limit: cp)", "stdio: the same with the end, ms (limit: cp, sync -f)",
                "stdio: GET of a pack of 50 MB, ms (limit: cat)"]
        for name in self.bench.order(run, "limit"):
            directory, end = self.bench.disk()
            if name == "limit":
                figures = self.copy(directory, pack, count)
            else:
                figures = self.upload_and_download(name, directory / "repository", pack, count)
                self.one_large(name, directory / "repository", pack)
            for row, seconds in zip(rows, figures):
                self.note(row, name, seconds / count * 1000)
            end()

    def upload_and_download(self, name, repository, pack, count):
        requests = [hashed_post(f"/{pack_name(number)}", pack) for number in range(count)]
        with self.stdio(self.command(name, repository)) as server:
            create(server)
            before, started = cpu_of(server.process.pid), time.perf_counter()
            for request in requests:
                server.exchange(request)
            answered = time.perf_counter() - started
            self.note("stdio: POST of a pack of 50 MB, CPU ms", name, (cpu_of(server.process.pid) - before) / count * 1000)
        ended = time.perf_counter() - started
        with self.stdio(self.command(name, repository)) as server:
            before = cpu_of(server.process.pid)
            seconds = each(server, [[rawhttp.request("GET", f"/{pack_name(number)}")] for number in range(count)]) * count
            self.note("stdio: GET of a pack of 50 MB, CPU ms", name, (cpu_of(server.process.pid) - before) / count * 1000)
            if server.expect(200, "GET", f"/{pack_name(count - 1)}") != pack:
                bed.die(f"{name} delivered another pack")
            self.note("stdio: peak memory, GETs of 50 MB, MB", name, memory_of(server.process.pid, "VmHWM") / 1000, Goal(most=30))
        return answered, ended, seconds

    def one_large(self, name, repository, pack):
        with self.stdio(self.command(name, repository)) as server:
            server.exchange(hashed_post(f"/{pack_name(10**6)}", pack + pack))
            self.note("stdio: peak memory, POST of 100 MB, MB", name, memory_of(server.process.pid, "VmHWM") / 1000, Goal(most=30))

    def copy(self, directory, pack, count):
        """What the machine can do: `cp` of as many files, with `sync -f`, and `cat` of them through a pipe."""
        source = self.place.directory("packs")
        for number in range(count):
            (source / str(number)).write_bytes(pack)
        started = time.perf_counter()
        subprocess.run(["cp", "-r", source, directory / "copy"], check=True)
        copied = time.perf_counter() - started
        subprocess.run(["sync", "-f", directory], check=True)
        synced = time.perf_counter() - started
        started = time.perf_counter()
        with subprocess.Popen(["cat", *measure.files_of(directory / "copy")], stdout=subprocess.PIPE, bufsize=0) as cat:
            buffer = bytearray(BUFFER)
            while cat.stdout.readinto(buffer):
                pass
        read = time.perf_counter() - started
        shutil.rmtree(source)
        return copied, synced, read

    def defrag(self, run):
        """4 × 50 MB made one object, as `compact` merges packs; gathered whole; and in 1000 pieces, as many as Borg asks for."""
        size = (5 if self.bench.quick else 50) * MEGABYTE
        pack, what = os.urandom(size), f"4 × {size // MEGABYTE} MB"
        sources = [[pack_name(number), 0, size] for number in range(4)]
        pieces = [[pack_name(number % 4), number * 4096, 16384] for number in range(1000)]
        for name in self.bench.order(run):
            directory, end = self.bench.disk()
            command = self.command(name, directory / "repository")
            with self.stdio(command) as server:
                create(server)
                for number in range(4):
                    server.exchange(hashed_post(f"/{pack_name(number)}", pack))
            with self.stdio(command) as server:
                started = time.perf_counter()
                made = server.expect(200, "POST", "/?cmd=defrag&algorithm=sha256&namespace=packs&levels=1", as_json(sources)).decode()
                self.note(f"stdio: defrag of {what}, ms", name, (time.perf_counter() - started) * 1000)
                self.note(f"stdio: peak memory, defrag of {what}, MB", name, memory_of(server.process.pid, "VmHWM") / 1000, Goal(most=30))
            if not made.endswith(hashlib.sha256(pack * 4).hexdigest()) or (directory / "repository" / made).stat().st_size != 4 * size:
                bed.die(f"{name} made {made}")
            for what_gathered, ranges in ((f"{what}", sources), ("1,000 × 16 KiB", pieces)):
                with self.stdio(command) as server:
                    started = time.perf_counter()
                    gathered = server.expect(200, "POST", "/?cmd=gather", as_json(ranges))
                    self.note(f"stdio: gather of {what_gathered}, ms", name, (time.perf_counter() - started) * 1000)
                    self.note(f"stdio: peak memory, gather of {what_gathered}, MB", name, memory_of(server.process.pid, "VmHWM") / 1000, Goal(most=30))
                if gathered != b"".join(pack[start:start + length] for _, start, length in ranges):
                    bed.die(f"{name} gathered something else")
                del gathered
            end()

    def client(self, run):
        """A stock client that starts a server four times, and makes 277 requests one after another."""
        for name in self.bench.order(run):
            directory, end = self.bench.disk()
            pipes = bed.Pipes(self.place, f"rest-{name}-{run}", self.servers[name], "--rest")
            client = bed.Client(ORIGINAL_VERSION, self.place, home=f"rest-home-{name}-{run}", rsh=pipes.rsh, repository=f"ssh://test/{directory / 'repository'}")
            done = client.run("repo-create", "-e", "aes256-ocb")
            if done.code != 0:
                bed.die(f"{name}: {done}")
            self.note(f"stdio: {ORIGINAL_VERSION} `repo-create`, the whole command, s", name, done.seconds, Goal(times=2))
            end()

    # --- the network ------------------------------------------------------------------------------------------------------

    def network_is_missing(self, section, run):
        server = Path(self.servers["ours"])
        nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        reason = None
        if not any(os.access(path, os.X_OK) for path in (server.with_name("borg-serve-net"), server.parent / "../libexec/borg-serve/borg-serve-net")):
            reason = f"no borg-serve-net beside {server} (swift build -c release --product borg-serve-net)"
        elif not nginx or not shutil.which("wrk"):
            reason = "nginx or wrk is missing (Debian: nginx wrk)"
        if reason and run == 0:
            self.bench.skip(section, reason)
        self.nginx = nginx
        return reason

    def serve(self, name, directory):
        """One of the three, upon an empty `directory`, with a repository in it."""
        port = free_port()
        log = self.place / f"{name}.log"
        if name == "original":
            command = [self.borgstore, "--host", "127.0.0.1", "--port", str(port), "--backend", f"file://{directory}/repository"]
            # Its log is a line for each request, on stderr.
            log = Path(os.devnull)
        elif name == "ours":
            configuration = self.place / "listen.toml"
            configuration.write_text(OURS.format(directory=directory, port=port))
            command = [self.servers["ours"], "listen", "--config", configuration]
        else:
            configuration = self.place / "nginx.conf"
            user = "user root root;" if os.geteuid() == 0 else ""
            temporary = directory / "temporary"  # on the same file system, so that nothing is copied
            temporary.mkdir()
            configuration.write_text(NGINX.format(directory=directory, port=port, user=user, log=log, place=self.place.path))
            command = [self.nginx, "-e", log, "-p", self.place.path, "-c", configuration]
        server = NetworkServer(command, port, "/repository" if name != "original" else "", log, self.environment, self.place)
        if name != "limit":
            with server.connect() as connection:
                create(connection, server.base)
        return server

    def method(self, name):
        return "PUT" if name == "limit" else "POST"

    def network_small(self, run):
        if self.network_is_missing("net-small", run):
            return
        stored = 1000
        for name in self.bench.order(run, "limit"):
            directory, end = self.bench.disk()
            with self.serve(name, directory) as server:
                with server.connect() as connection:
                    for number in range(stored):
                        connection.exchange(hashed_post(f"{server.base}/{pack_name(number)}", small_body(number), self.method(name)))
                    if connection.expect(200, "GET", f"{server.base}/{pack_name(7)}") != small_body(7):
                        bed.die(f"{name} delivered something else")
                for connections in (1, 32) if self.bench.quick else (1, 4, 32):
                    label = f"{connections} connection{'s' * (connections > 1)}, µs each (limit: nginx)"
                    script = GET_SCRIPT.format(base=server.base, stored=stored, names=self.names(stored))
                    load = functools.partial(self.acknowledging, stored) if name == "original" else functools.partial(self.wrk, script)
                    self.load(f"net: 1 KiB GET, {label}", name, server, connections, load, Goal(limit=1.25))
                    script = STORE_SCRIPT.format(base=server.base, method=self.method(name), tag=connections, body=STORE_BODY.decode(),
                                                 hash=sha256(STORE_BODY))
                    self.load(f"net: 1 KiB POST, hashed, {label}", name, server, connections, functools.partial(self.wrk, script), Goal(times=5, limit=1.11))
                self.note("net: resident after that, MB (limit: nginx)", name, server.memory("VmRSS"))
            end()

    def load(self, row, name, server, connections, load, goal):
        before = server.cpu()
        rate = load(server, connections)
        self.note(row, name, 1e6 / rate, goal)
        self.note(row.replace(", µs each", ", CPU µs each"), name, (server.cpu() - before) / (rate * self.seconds) * 1e6)

    def names(self, count):
        path = self.place / "names"
        if not path.exists():
            path.write_text("".join(f"{pack_name(number)}\n" for number in range(count)))
        return path

    def wrk(self, script, server, connections):
        """Requests per second; any answer but a good one ends the program."""
        path = self.place / "load.lua"
        path.write_text(script)
        done = subprocess.run(["wrk", "-t1", f"-c{connections}", f"-d{self.seconds}s", "--timeout", "30s", "-s", path, f"http://127.0.0.1:{server.port}/"],
                              capture_output=True, text=True)
        rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
        if done.returncode or not rate or float(rate[1]) == 0 or "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
            bed.die(f"wrk: {done.stdout}{done.stderr}{server.said()}")
        return float(rate[1])

    def acknowledging(self, stored, server, connections):
        """GETs per second by clients that acknowledge at once."""
        counts, deadline = [0] * connections, time.perf_counter() + self.seconds

        def work(index):
            with server.connect(acknowledges=True) as connection:
                requests = [[rawhttp.request("GET", f"{server.base}/{pack_name(number)}", headers=[("Host", "localhost")])] for number in range(stored)]
                while time.perf_counter() < deadline:
                    connection.exchange(requests[counts[index] % stored])
                    counts[index] += 1

        together([lambda index=index: work(index) for index in range(connections)])
        return sum(counts) / self.seconds

    def network_big(self, run):
        """Packs one after another, to the answer, and until all of them are safe: by an archive's entry, or `sync -f`."""
        if self.network_is_missing("net-big", run):
            return
        for size, count in ((20, 3),) if self.bench.quick else ((20, 20), (100, 5)):
            pack = os.urandom(size * MEGABYTE)
            for name in self.bench.order(run, "limit"):
                directory, end = self.bench.disk()
                with self.serve(name, directory) as server, server.connect() as connection:
                    self.packs_by_network(name, server, connection, directory, pack, size, count)
                    if name != "limit" and size == 100:
                        self.note("net: peak memory, uploads of 100 MB one after another, MB", name, server.memory("VmHWM"), Goal(most=30))
                end()

    def packs_by_network(self, name, server, connection, directory, pack, size, count):
        requests = [hashed_post(f"{server.base}/{pack_name(number)}", pack, self.method(name)) for number in range(count)]
        before, started = server.cpu(), time.perf_counter()
        for request in requests:
            connection.exchange(request)
        answered = time.perf_counter() - started
        cpu = server.cpu() - before
        if name == "limit":
            subprocess.run(["sync", "-f", directory], check=True)
        else:
            connection.exchange(hashed_post(f"{server.base}/archives/{hashlib.sha256(b'archive').hexdigest()}", b"archive"))
        safe = time.perf_counter() - started
        self.note(f"net: POST of {size} MB, hashed, to its answer, ms (limit: nginx, not hashed)", name, answered / count * 1000, Goal(times=3, limit=1.25))
        self.note(f"net: POST of {size} MB, hashed, CPU ms (limit: nginx, not hashed)", name, cpu / count * 1000)
        # The original syncs nothing at all, so that there is nothing to compare with.
        if name != "original":
            self.note(f"net: POST of {size} MB, hashed, until safe, ms (limit: nginx and sync -f)", name, safe / count * 1000, Goal(limit=1.25))
        before = server.cpu()
        seconds = each(connection, [[rawhttp.request("GET", f"{server.base}/{pack_name(number)}", headers=[("Host", "localhost")])] for number in range(count)])
        self.note(f"net: GET of {size} MB, ms (limit: nginx)", name, seconds * 1000, Goal(times=1, limit=1))
        self.note(f"net: GET of {size} MB, CPU ms (limit: nginx)", name, (server.cpu() - before) / count * 1000)
        if connection.expect(200, "GET", f"{server.base}/{pack_name(count - 1)}") != pack:
            bed.die(f"{name} delivered another pack")

    def network_many(self, run):
        """The memory of 100 uploads of 50 MB, each of which is kept waiting before its last byte until all are that far.

        Not with the original, which keeps them in memory."""
        if run > 0 or self.network_is_missing("net-many", run):
            return
        uploads, size = (20, 2) if self.bench.quick else (100, 50)
        pack = os.urandom(size * MEGABYTE)
        needed = uploads * size * MEGABYTE
        for name in ("limit", "ours"):
            directory = self.place.directory("many")
            free = shutil.disk_usage(directory).free
            available = int(next(line for line in open("/proc/meminfo") if line.startswith("MemAvailable")).split()[1]) * 1000
            if free < 1.2 * needed or available < 2 * needed:
                self.bench.skip("net-many", f"needs {1.2 * needed / 1e9:.1f} GB at {directory}, of which {free / 1e9:.1f} are free, and as much memory")
                return
            with self.serve(name, directory) as server:
                everybody = threading.Barrier(uploads)

                def upload(number):
                    try:
                        with server.connect() as connection:
                            head, body = hashed_post(f"{server.base}/{pack_name(number)}", pack, self.method(name))
                            connection.send([head, memoryview(body)[:-1]])
                            everybody.wait(300)
                            connection.send([memoryview(body)[-1:]])
                            connection.take(to_die=True)
                    except BaseException:
                        everybody.abort()
                        raise

                started = time.perf_counter()
                together([lambda number=number: upload(number) for number in range(uploads)])
                label = f"net: {uploads} uploads of {size} MB at once"
                self.note(f"{label}, peak memory, MB (limit: nginx)", name, server.memory("VmHWM"), Goal(most=60))
                self.note(f"{label}, s (limit: nginx)", name, time.perf_counter() - started)
            shutil.rmtree(directory)


# --- requests ---------------------------------------------------------------------------------------------------------


def pack_name(number):
    digest = hashlib.sha256(b"%d" % number).hexdigest()
    return f"packs/{digest[:2]}/{digest}"


def small_body(number):
    return hashlib.sha256(b"body %d" % number).digest() * 32


def hashed_post(target, body, method="POST"):
    """Head and body, which go out in one write."""
    return [rawhttp.request(method, target, headers=[("Host", "localhost"), ("X-Content-hash-sha256", sha256(body))], length=len(body)), body]


@functools.lru_cache(maxsize=1)  # one pack has many names
def sha256(body):
    return hashlib.sha256(body).hexdigest()


def create(connection, base=""):
    """A store that our server takes for a repository of Borg's: it serves no other directories that are not empty."""
    connection.expect(200, "POST", f"{base}/?cmd=create")
    connection.expect(200, "POST", f"{base}/config/config", CONFIGURATION)


def as_json(ranges):
    return json.dumps(ranges).encode()


def each(connection, requests):
    """Seconds that one request took, one after another."""
    started = time.perf_counter()
    for request in requests:
        connection.exchange(request)
    return (time.perf_counter() - started) / len(requests)


class Wire:
    """A client that costs little: one system call sends a request whole, and large bodies are read into one buffer."""

    def __init__(self, reader, writer, before_read=lambda: None):
        self._reader, self._writer, self._before_read = reader, writer, before_read
        self._buffer = memoryview(bytearray(BUFFER))

    def send(self, parts):
        left = sum(map(len, parts))
        while left:
            sent = os.writev(self._writer, parts)
            left -= sent
            while parts and sent >= len(parts[0]):
                sent -= len(parts[0])
                parts = parts[1:]
            if sent:
                parts = [memoryview(parts[0])[sent:], *parts[1:]]

    def _read(self, start=0):
        self._before_read()
        count = os.readv(self._reader, [self._buffer[start:]])
        if count == 0:
            bed.die("a server hung up")
        return count

    def take(self, *, keeps=False, to_die=False, head_only=False):
        """The status, and the body if it is kept."""
        have = self._read()
        while (end := bytes(self._buffer[:min(have, 8192)]).find(b"\r\n\r\n")) < 0:
            have += self._read(have)
        head = bytes(self._buffer[:end]).decode("latin-1")
        status = int(head.split(" ", 2)[1])
        length = re.search(r"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        left = 0 if head_only or status == 204 else int(length[1] if length else 0)
        body = bytearray(self._buffer[end + 4:have]) if keeps else None
        left -= have - end - 4
        while left > 0:
            have = self._read()
            left -= have
            if keeps:
                body += self._buffer[:have]
        if to_die and not 200 <= status < 300:
            bed.die(f"a server answered {head}\n{bytes(body or self._buffer[end + 4:have])!r}")
        return status, body

    def exchange(self, request):
        self.send(request)
        self.take(to_die=True)

    def answers(self, method, target, body=None):
        self.send([rawhttp.request(method, target, body, headers=[("Host", "localhost")])])
        return self.take(keeps=True, head_only=method == "HEAD")

    def expect(self, status, method, target, body=None):
        answered, body = self.answers(method, target, body)
        if answered != status:
            bed.die(f"{method} {target} was answered with {answered} {bytes(body[:300])!r} instead of {status}")
        return body


class Stdio(Wire):
    def __init__(self, command, directory, environment):
        self.command = command
        self.process = subprocess.Popen(command, cwd=directory, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, bufsize=0)
        super().__init__(self.process.stdout.fileno(), self.process.stdin.fileno())

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.process.stdin.close()
        if kind is not None:
            self.process.kill()
        code = self.process.wait(60)
        self.process.stdout.close()
        if kind is None and code != 0:
            bed.die(f"{self.command} ended with {code}")


class Connected(Wire):
    """Over TCP; `acknowledges` what it receives at once, which Linux promises for the next packets only, so it is said each time."""

    def __init__(self, port, acknowledges):
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.socket.settimeout(None)
        quick = getattr(socket, "TCP_QUICKACK", 12)
        super().__init__(self.socket.fileno(), self.socket.fileno(),
                         (lambda: self.socket.setsockopt(socket.IPPROTO_TCP, quick, 1)) if acknowledges else lambda: None)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.socket.close()


def together(actions):
    """Runs all at the same time, each on a thread; the first one's failure is the caller's."""
    failures = []

    def run(action):
        try:
            action()
        except BaseException as failure:  # SystemExit too: bed.die on a thread ends nothing but the thread
            failures.append(failure)

    threads = [threading.Thread(target=run, args=(action,), daemon=True) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# --- servers on the network -------------------------------------------------------------------------------------------


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class NetworkServer:
    def __init__(self, command, port, base, log, environment, place):
        self.port, self.base, self.log = port, base, log
        with open(log, "ab") as out:
            self.process = subprocess.Popen([str(word) for word in command], env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                            start_new_session=True)
        place.undo(lambda: bed.kill_group(self.process))
        if bed.wait_until(self._listens, 20, 0.02) is None:
            bed.die(f"{command[0]} does not listen: {self.said()}")

    def _listens(self):
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            if self.process.poll() is not None:
                bed.die(f"{self.process.args[0]} ended with {self.process.returncode}: {self.said()}")
            return False

    def said(self):
        return self.log.read_text(errors="replace")[-2000:] if self.log.is_file() else ""

    def connect(self, acknowledges=False):
        return Connected(self.port, acknowledges)

    def _pids(self):
        return [self.process.pid, *Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()]

    def memory(self, what):
        """MB of all its processes: pages that they share count more than once."""
        return sum(memory_of(pid, what) for pid in self._pids()) / 1000

    def cpu(self):
        return sum(map(cpu_of, self._pids()))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            bed.kill_group(self.process)
            self.process.wait()


OURS = """root = "{directory}"
[[listener]]
address = "127.0.0.1:{port}"
[log]
access = false
"""

NGINX = """{user}
daemon off;
worker_processes auto;
pid {place}/nginx.pid;
error_log {log} warn;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 100000000;
  client_max_body_size 0;
  client_body_buffer_size 1m;
  client_body_temp_path {directory}/temporary;
  proxy_temp_path {place}/nginx-proxy;
  fastcgi_temp_path {place}/nginx-fastcgi;
  uwsgi_temp_path {place}/nginx-uwsgi;
  scgi_temp_path {place}/nginx-scgi;
  server {{
    listen 127.0.0.1:{port};
    root {directory};
    location / {{ dav_methods PUT; create_full_put_path on; }}
  }}
}}
"""

CONFIGURATION = b"[repository]\nversion = 5\nid = " + b"0" * 64 + b"\n"

STORE_BODY = b"0123456789abcdef" * 64

# Scripts for wrk. Names are never stored to twice, and spread over the 256 directories as hashes do.
STORE_SCRIPT = """
local count = 0
local rest = " HTTP/1.1\\r\\nHost: localhost\\r\\nAccept: application/vnd.x.borgstore.rest.v1\\r\\nX-Content-hash-sha256: {hash}\\r\\n" ..
  "Connection: keep-alive\\r\\nContent-Length: 1024\\r\\n\\r\\n{body}"
function request()
  count = count + 1
  local first = string.format("%02x", count * 167 % 256)
  return string.format("{method} {base}/packs/%s/%s%04x%058x", first, first, {tag}, count) .. rest
end
"""

GET_SCRIPT = """
local requests, count = {{}}, 0
function init()
  for line in io.lines("{names}") do
    requests[#requests + 1] = "GET {base}/" .. line .. " HTTP/1.1\\r\\nHost: localhost\\r\\nAccept: application/vnd.x.borgstore.rest.v1\\r\\nConnection: keep-alive\\r\\n\\r\\n"
  end
end
function request()
  count = count % {stored} + 1
  return requests[count]
end
"""
