#!/usr/bin/env python3
"""The unix socket server: live stock clients at once, clients that freeze, die, lie or are too many, and its own life.

Proved: clients of 2.0.0b16, b18 and b21 back up at once through one server, each as if it were alone, while others are
stopped, killed or talk nonsense; limits, timeouts, signals, second servers and a system without descriptors end what
they should and nothing else; sockets may come from systemd, which is told when the server is ready.

Everything is done with the program as it is installed. The original as server under test is expected to fail here.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
import bed

scenario = bed.Scenarios()
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # where no disk is to be waited for
VERSIONS = ["2.0.0b16", "2.0.0b18", "2.0.0b21"]
PROMPT = 5.0  # seconds within which everything happens that needs no time


class Harbour:
    """A server on a socket below a temporary place, and what it says."""

    def __init__(self, name, options, report, *arguments, start=True, wrapper=(), environment={}, inside=None):
        self.name, self.options, self.report = name, options, report
        self.place = bed.Place("sockets", options.keep, inside)
        self.place.undo(self.kill)
        self.arguments, self.wrapper, self.environment = arguments, wrapper, environment
        self.socket = self.place.directory("run") / "x.sock"
        self.pid_file = self.socket.with_suffix(".pid")
        self.log = self.place / "server.log"
        self.process = None
        if start:
            self.start()

    def start(self, *arguments, wait=True):
        """Starts the server; it listens when this returns."""
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, self.options.server, "serve", f"--socket={self.socket}", *self.arguments, *arguments],
                stdin=subprocess.DEVNULL, stderr=log, start_new_session=True,
                env={"PATH": os.environ["PATH"], "HOME": "/", "BORG_HOST_ID": "sockets@1", **self.environment})
        if wait and bed.wait_until(self.socket.exists, PROMPT) is None:
            raise bed.Failed(f"the server does not listen: {self.said()}")
        return self.process

    def said(self):
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def client(self, version=bed.ORIGINAL_VERSION, repository="repository", **more):
        """A stock client and the options that lead it here."""
        return Borg(bed.Client(version, self.place, repository=f"socket://{self.place / repository}",
                               home=f"home-{version}-{repository}", **more), [f"--socket={self.socket}"])

    def peer(self):
        return Peer(self.socket)

    def locks(self, repository="repository"):
        return bed.lock_files(self.place / repository)

    def check(self, what, condition, detail="", note=""):
        return self.report.check(f"{self.name}: {what}", condition, detail or self.said()[-1500:], note)

    def lives(self):
        """The server is there, and serves whoever comes now."""
        peer = self.peer()
        return self.process.poll() is None and peer.call("negotiate", client_data={"client_version": [2, 0, 0, -3, 18]}) is not None

    def end(self, number=signal.SIGTERM, timeout=PROMPT):
        """Its exit code, or None if it did not end in time."""
        self.process.send_signal(number)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def kill(self):
        if self.process and self.process.poll() is None:
            bed.kill_group(self.process)
            self.process.wait()

    def close(self):
        self.place.close()


class Borg:
    """A stock client of one socket."""

    def __init__(self, client, options):
        self.client, self.options = client, options

    def run(self, *arguments, ok=True, **more):
        outcome = self.client.run(*self.options, *arguments, **more)
        if ok and outcome.code != 0:
            raise bed.Failed(str(outcome))
        return outcome

    def start(self, *arguments, **more):
        return self.client.start(*self.options, *arguments, **more)


class Peer:
    """A client of our own making, which may do what no Borg does."""

    def __init__(self, path):
        msgpack = bed.load_msgpack()
        self.pack = msgpack.Packer(use_bin_type=True).pack
        self.unpacker = msgpack.Unpacker(raw=False, strict_map_key=False)
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PROMPT)
        self.socket.connect(str(path))
        self.number = 0

    def request(self, method, **arguments):
        self.number += 1
        return self.pack({"i": self.number, "m": method, "a": arguments})

    def answer(self):
        """The next answer; None if the server hangs up."""
        while True:
            for message in self.unpacker:
                if "l" not in message:
                    return message
            try:
                data = self.socket.recv(1 << 16)
            except (ConnectionError, TimeoutError):
                return None
            if not data:
                return None
            self.unpacker.feed(data)

    def call(self, method, **arguments):
        self.socket.sendall(self.request(method, **arguments))
        return self.answer()

    def open(self, path, exclusive=True):
        answer = self.call("open", path=str(path), create=not Path(path).exists(), exclusive=exclusive, lock_wait=1)
        if not answer or "r" not in answer:
            raise bed.Failed(f"open {path}: {answer}")
        return self

    def is_hung_up_on(self, timeout=PROMPT):
        self.socket.settimeout(timeout)
        try:
            while self.socket.recv(1 << 16):
                pass
            return True
        except TimeoutError:
            return False
        except ConnectionError:
            return True


def memory(pid):
    """Resident bytes and threads of a process."""
    fields = dict(line.split(":", 1) for line in open(f"/proc/{pid}/status"))
    return int(fields["VmRSS"].split()[0]) * 1024, int(fields["Threads"])


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- clients at once --------------------------------------------------------------------------------------------------


@scenario
def clients_at_once(options, report):
    """Eight backups at once, two pairs into one repository each, in the worst of company."""
    with bed.closing(Harbour("weakness 4", options, report)) as h:
        source = bed.make_tree(h.place / "source", options.seed, megabytes=3, small_files=80)
        expected = bed.fingerprint(source)
        fleet = [(VERSIONS[number % 3], f"repository{number}") for number in range(4)]
        fleet += [("2.0.0b18", "shared18"), ("2.0.0b18", "shared18"), ("2.0.0b21", "shared21"), ("2.0.0b21", "shared21")]
        for version, name in sorted(set(fleet)):
            h.client(version, name).run("repo-create", "-e", "none")
        frozen = h.client("2.0.0b18", "frozen")
        frozen.run("repo-create", "-e", "none")
        killed = h.client("2.0.0b18", "killed")
        killed.run("repo-create", "-e", "none")
        ice, dead = (c.start("create", "x", ".", cwd=source, stdout=subprocess.DEVNULL) for c in (frozen, killed))
        for name, process, number in (("frozen", ice, signal.SIGSTOP), ("killed", dead, signal.SIGKILL)):
            bed.wait_until(lambda: h.locks(name) or process.poll() is not None, 30, 0.002)
            os.kill(process.pid, number)
        peers = [h.peer() for _ in range(6)]
        for peer, nonsense in zip(peers, (b"\xc1", b"GET / HTTP/1.1\r\n\r\n", b"\x01", b"\xdd\x7f\xff\xff\xff", b"\x83\xa1", b"")):
            peer.socket.sendall(nonsense)
        rude = h.peer().open(h.place / "rude")
        rude.socket.sendall(b"".join(rude.request("put", id=bytes([n]) * 32, data=b"x" * 1000) for n in range(50)))
        rude.socket.close()
        homes = [h.client(version, name, BORG_CACHE_DIR=str(h.place.directory(f"cache{number}")))
                 for number, (version, name) in enumerate(fleet)]
        started = time.monotonic()
        running = [client.start("create", f"archive{number}", ".", cwd=source) for number, client in enumerate(homes)]
        outputs = [process.communicate(timeout=120)[0] for process in running]
        took = time.monotonic() - started
        codes = [process.returncode for process in running]
        h.check("eight clients of three versions back up at once, beside one that is frozen, one that is killed and six that talk nonsense",
                codes == [0] * 8, "\n".join(o.decode(errors="replace")[-300:] for o in outputs), f"{took:.1f} s")
        h.check("a killed client leaves no lock", bed.wait_until(lambda: not h.locks("killed"), PROMPT) is not None)
        h.check("a client that queues requests and leaves leaves no lock, and its requests are done",
                bed.wait_until(lambda: not h.locks("rude"), PROMPT) is not None
                and sum(len(files) for _, _, files in os.walk(h.place / "rude" / "data")) == 50)
        h.check("the server lives on", h.lives())
        targets = [h.place.directory(f"restored{number}") for number in range(8)]
        running = [c.start("extract", f"archive{n}", cwd=target) for n, (c, target) in enumerate(zip(homes, targets))]
        outputs = [process.communicate(timeout=120)[0].decode(errors="replace") for process in running]
        for number, (process, output, target) in enumerate(zip(running, outputs, targets)):
            found = bed.fingerprint(target)
            h.check(f"archive {number} ({fleet[number][0]}, {fleet[number][1]}) is extracted identically, beside the others",
                    process.returncode == 0 and found == expected, f"{output[-500:]}\n{bed.difference(expected, found)}")
        os.kill(ice.pid, signal.SIGCONT)
        h.check("the frozen client thaws, and ends its backup", ice.wait(60) == 0)
        dead.wait()
        for name in ("frozen", "shared18", "killed"):
            direct = bed.Client("2.0.0b18", h.place, home=f"direct-{name}", repository=str(h.place / name))
            outcome = direct.run("check", "--repository-only", "-v")
            h.check(f"the original finds no fault with {name}", outcome.code == 0 and "no problems found" in outcome.output, outcome)
        h.check("no lock is left", not any(h.locks(name) for name in [n for _, n in fleet] + ["frozen", "killed", "rude"]))
        h.check("it ends with 143", h.end() == 143)


@scenario
def many_connections(options, report):
    """What idle connections cost, and 32 clients that read and write."""
    with bed.closing(Harbour("many connections", options, report, "--max-connections", "200", inside=MEMORY)) as h:
        h.lives()
        time.sleep(0.2)
        before, threads = memory(h.process.pid)
        peers = [h.peer().open(h.place / f"repository{n % 8}", exclusive=False) for n in range(100)]
        after, more = memory(h.process.pid)
        each = (after - before) / len(peers)
        h.check("an idle connection with an open repository costs less than 256 KiB", each < 256 * 1024, f"{each:.0f} bytes",
                f"{each / 1024:.0f} KiB and {(more - threads) / len(peers):.0f} threads each")
        started = time.monotonic()
        name = lambda n, k: bytes([n]) * 16 + bytes([k]) * 16
        for n, peer in enumerate(peers[:32]):
            peer.socket.sendall(b"".join(peer.request("put", id=name(n, k), data=bytes([n]) * 5000) for k in range(100)))
        good = all(peer.answer().get("r", 0) is None for peer in peers[:32] for _ in range(100))
        for n, peer in enumerate(peers[:32]):
            peer.socket.sendall(b"".join(peer.request("get", id=name(n, k)) for k in range(100)))
        good &= all(peer.answer().get("r") == bytes([n]) * 5000 for n, peer in enumerate(peers[:32]) for _ in range(100))
        h.check("32 clients put and get 100 objects each at once", good, note=f"{time.monotonic() - started:.2f} s")
        peers.clear()
        del peer
        ended = bed.wait_until(lambda: memory(h.process.pid)[1] <= threads, PROMPT)
        h.check("their threads end with them", ended is not None, f"{memory(h.process.pid)[1]} threads instead of {threads}")
        descriptors = len(os.listdir(f"/proc/{h.process.pid}/fd"))
        h.check("and their descriptors", descriptors < 15, f"{descriptors} are open", f"{descriptors} are left")


@scenario
def storm(options, report):
    """Short visits of every kind, thousands of them."""
    with bed.closing(Harbour("storm", options, report, inside=MEMORY)) as h:
        rng = random.Random(options.seed)
        steady = h.peer().open(h.place / "steady")
        h.peer().open(h.place / "repository").socket.close()
        visits, until = 0, time.monotonic() + 6
        while time.monotonic() < until:
            crowd = [h.peer() for _ in range(rng.randrange(1, 12))]
            for peer in crowd:
                data = peer.request("open", path=str(h.place / "repository"), exclusive=False, lock_wait=0)
                data += b"".join(peer.request("put", id=rng.randbytes(32), data=bytes(rng.choice([10, 3000, 200_000]))) for _ in range(3))
                data += peer.request("list", limit=10)
                peer.socket.settimeout(0.1)
                try:
                    peer.socket.sendall(data[:rng.choice([0, 1, 30, 5000, len(data), len(data)])])
                    if rng.random() < 0.3:
                        peer.answer()
                    if rng.random() < 0.3:
                        peer.socket.shutdown(rng.choice([socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR]))
                except OSError:
                    pass
            visits += len(crowd)
        del crowd, peer
        h.check("whoever stays is served", "r" in (steady.call("info") or {}), note=f"{visits} visits")
        bed.wait_until(lambda: memory(h.process.pid)[1] <= 9, PROMPT)
        resident, threads = memory(h.process.pid)
        descriptors = len(os.listdir(f"/proc/{h.process.pid}/fd"))
        h.check("nothing of the visitors is left", threads <= 9 and descriptors < 25, f"{threads} threads, {descriptors} descriptors",
                f"{resident >> 20} MiB")
        h.check("no lock is left", not h.locks())
        h.check("it ends with 143", h.end() == 143)


@scenario
def flood(options, report):
    """Clients that connect and leave at once, from several processes, as fast as they can."""
    with bed.closing(Harbour("flood", options, report, inside=MEMORY)) as h:
        steady = h.peer().open(h.place / "steady")
        loop = ("import socket, sys, time\nend = time.time() + 4\n"
                "while time.time() < end:\n    s = socket.socket(socket.AF_UNIX)\n    s.settimeout(1)\n"
                "    try: s.connect(sys.argv[1])\n    except OSError: pass\n    s.close()\n")
        visitors = [subprocess.Popen([sys.executable, "-c", loop, str(h.socket)]) for _ in range(3)]
        most = 0
        while any(visitor.poll() is None for visitor in visitors):
            most = max(most, sum(1 for _ in open(f"/proc/{h.process.pid}/maps")))
            time.sleep(0.2)
        resident, _ = memory(h.process.pid)
        said = h.said()
        h.check("threads do not pile up", most < 3000 and "no more threads" not in said and resident < 40 << 20,
                f"{most} mappings, {resident >> 20} MiB", f"{said.count('Accepted')} visits, {most} mappings, {resident >> 20} MiB")
        h.check("whoever stays is served", "r" in (steady.call("info") or {}))
        h.check("it ends with 143", h.end() == 143)


@scenario
def deaf_readers(options, report):
    """Clients that ask for many large objects and read none of them, where few files may be open."""
    with bed.closing(Harbour("deaf readers", options, report, inside=MEMORY, wrapper=["prlimit", "--nofile=512:512"])) as h:
        steady = h.peer().open(h.place / "repository", exclusive=False)
        steady.call("put", id=b"1" * 32, data=bytes(400_000))
        deaf = [h.peer().open(h.place / "repository", exclusive=False) for _ in range(4)]
        for peer in deaf:
            peer.socket.sendall(b"".join(peer.request("get", id=b"1" * 32) for _ in range(200)))
        time.sleep(0.5)
        descriptors = len(os.listdir(f"/proc/{h.process.pid}/fd"))
        h.check("few files are open for them", descriptors < 200, f"{descriptors} descriptors", f"{descriptors} descriptors")
        steady.call("put", id=b"2" * 32, data=b"x" * 1000)
        h.check("another client stores, and closes", "r" in (steady.call("close") or {}) and "open files" in h.said())
        h.check("it ends with 143", h.end() == 143)


@scenario
def restricted(options, report):
    """What a restriction, and the kernel's confinement, leave a server of sockets to do."""
    with bed.closing(Harbour("restricted", options, report, start=False)) as h:
        h.arguments = ("--restrict-to-path", str(h.place.directory("allowed")), "--debug")
        h.start()
        h.client(repository="allowed/repository").run("repo-create", "-e", "none")
        h.check("a stock client creates where it may", True)
        refused = h.peer().call("open", path=str(h.place / "elsewhere"), create=True, lock_wait=1)
        h.check("and nobody elsewhere", refused.get("exception_class") == "PathNotAllowed" and not (h.place / "elsewhere").exists(), refused)
        h.check("both files go with the server all the same", h.end() == 143 and os.listdir(h.socket.parent) == [], os.listdir(h.socket.parent))


# --- what is too much -------------------------------------------------------------------------------------------------


@scenario
def connection_limit(options, report):
    with bed.closing(Harbour("connection limit", options, report, "--max-connections=1")) as h:
        client = h.client()
        client.run("repo-create", "-e", "none")
        # Stock clients do not wait for the end of their connection: one after the other has to be possible all the same.
        for _ in range(3):
            client.run("repo-list")
        h.check("one client after the other is served", True)
        holder = h.peer().open(h.place / "other")
        for version in VERSIONS:
            outcome = h.client(version).run("repo-list", ok=False)
            h.check(f"a client of {version} beyond the limit is told so", outcome.code not in (0, "timeout") and "as many clients as it may" in outcome.output,
                    outcome, f"exit code {outcome.code}")
        crowd = [h.peer() for _ in range(40)]
        h.check("clients beyond the limit who say nothing are hung up on, some at once, all soon",
                all(peer.is_hung_up_on(10) for peer in crowd))
        h.check("whoever is served goes on", "r" in (holder.call("info") or {}))
        holder.socket.close()
        bed.wait_until(lambda: not h.locks("other"), PROMPT)
        client.run("repo-list")
        h.check("a place that is free is had", True)


@scenario
def descriptors_run_out(options, report):
    prlimit = shutil.which("prlimit")
    if not prlimit:
        return report.skip("descriptors run out", "prlimit is missing")
    with bed.closing(Harbour("descriptors run out", options, report, wrapper=[prlimit, "--nofile=40"])) as h:
        client = h.client()
        client.run("repo-create", "-e", "none")
        crowd = []
        for _ in range(60):
            crowd.append(h.peer())
        h.check("it says so, once", bed.wait_until(lambda: "for now: Too many open files" in h.said(), PROMPT) is not None)
        before = cpu_seconds(h.process.pid)
        time.sleep(2)
        used = cpu_seconds(h.process.pid) - before
        h.check("it waits, and does not spin", used < 0.3, f"{used} s of 2 s", f"{used:.2f} s of 2 s")
        h.check("and does not fill the log", h.said().count("for now: Too many open files") == 1)
        crowd.clear()
        bed.wait_until(lambda: len(os.listdir(f"/proc/{h.process.pid}/fd")) < 12, PROMPT)
        client.run("repo-list")
        h.check("then it serves again", True)
        h.check("it ends with 143", h.end() == 143)


@scenario
def idle_timeout(options, report):
    with bed.closing(Harbour("idle timeout", options, report, "--idle-timeout", "2")) as h:
        silent = h.peer().open(h.place / "silent")
        busy = h.peer().open(h.place / "busy")
        deaf = h.peer().open(h.place / "deaf")
        deaf.call("put", id=bytes(32), data=bytes(2 << 20))
        deaf.socket.sendall(b"".join(deaf.request("get", id=bytes(32)) for _ in range(20)))
        answers = 0
        until = time.monotonic() + 5
        while time.monotonic() < until:
            answers += "r" in (busy.call("info") or {})
            time.sleep(0.5)
        h.check("a client that says nothing is ended, its lock released", silent.is_hung_up_on() and not h.locks("silent"))
        h.check("so is one that reads nothing", bed.wait_until(lambda: not h.locks("deaf"), PROMPT) is not None)
        h.check("one that asks from time to time is not", answers >= 9 and h.locks("busy"))
        h.check("the log says why", h.said().count("nothing has happened on it") == 2)
        server = bed.Server(options.server, "--idle-timeout=1", cwd=h.place.path)
        server.call("open", path=str(h.place / "stdio"), create=True, exclusive=True, lock_wait=1)
        locked = h.locks("stdio")
        code = server.process.wait(10)
        h.check("on standard input and output too", code == 0 and locked and not h.locks("stdio"), f"exit code {code}: {server.errors()}")
        h.check("and that is said too", "nothing has happened on it" in server.errors(), server.errors())


@scenario
def log_is_not_read(options, report):
    with bed.closing(Harbour("a log that nobody reads", options, report, start=False, inside=MEMORY)) as h:
        reader, writer = os.pipe()
        h.process = subprocess.Popen([options.server, "serve", f"--socket={h.socket}"], stderr=writer, start_new_session=True)
        os.close(writer)
        bed.wait_until(h.socket.exists, PROMPT)
        for _ in range(400):
            h.peer().socket.close()
        h.check("does not hold up the server", h.lives())
        h.check("nor its end", h.end() == 143)
        os.close(reader)


# --- the server's life ------------------------------------------------------------------------------------------------


@scenario
def second_server(options, report):
    with bed.closing(Harbour("weakness 5", options, report)) as h:
        peer = h.peer().open(h.place / "repository")
        second = subprocess.run([options.server, "serve", f"--socket={h.socket}"], capture_output=True, text=True, timeout=20)
        h.check("a second server is refused, and says whose the socket is", second.returncode == 2 and f"PID {h.process.pid}" in second.stderr, second)
        h.check("the first one serves on", "r" in (peer.call("info") or {}) and h.lives())
        h.check("the process id is the first one's", h.pid_file.read_text() == str(h.process.pid))
        h.check("the socket is the group's too", h.socket.stat().st_mode & 0o777 == 0o770, oct(h.socket.stat().st_mode))
        os.kill(h.process.pid, signal.SIGKILL)
        h.process.wait()
        h.check("a killed server leaves its socket", h.socket.exists() and h.pid_file.exists())
        h.start(wait=False)
        h.check("which the next one replaces", bed.wait_until(lambda: h.pid_file.read_text() == str(h.process.pid), PROMPT) is not None and h.lives())
        h.check("and whose lock it takes for dead", h.peer().open(h.place / "repository") is not None)
        h.end()
        h.check("both files go with the server", os.listdir(h.socket.parent) == [], os.listdir(h.socket.parent))
        h.socket.write_text("precious")
        refused = h.start(wait=False).wait(10)
        h.check("a regular file is left alone", refused == 2 and h.socket.read_text() == "precious" and not h.pid_file.exists())
        h.socket.unlink()
        original = subprocess.Popen([options.original, "serve", f"--socket={h.socket}"], stderr=subprocess.DEVNULL, start_new_session=True)
        h.place.undo(lambda: bed.kill_group(original))
        bed.wait_until(h.socket.exists, 20)
        # It may not listen yet: then its socket is as good as dead.
        time.sleep(0.2)
        refused = h.start(wait=False).wait(10)
        h.check("the original's living socket is left alone", refused == 2 and original.poll() is None, note="exit code 2")


@scenario
def told_to_end(options, report):
    for number, code in ((signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130)):
        with bed.closing(Harbour(f"weakness 2: {number.name}", options, report)) as h:
            source = h.place.directory("source")
            for part in range(40):
                (source / f"{part}").write_bytes(os.urandom(1 << 20))
            client = h.client()
            client.run("repo-create", "-e", "none")
            idle = h.peer().open(h.place / "idle")
            waiting = h.peer()
            waiting.socket.sendall(waiting.request("open", path=str(h.place / "idle"), exclusive=True, lock_wait=3600))
            deaf = h.peer().open(h.place / "deaf")
            deaf.call("put", id=bytes(32), data=bytes(2 << 20))
            deaf.socket.sendall(b"".join(deaf.request("get", id=bytes(32)) for _ in range(20)))
            process = client.start("create", "x", ".", cwd=source)
            count = lambda: sum(len(files) for _, _, files in os.walk(h.place / "repository"))
            before = count()
            bed.wait_until(lambda: count() > before + 3 or process.poll() is not None, 30, 0.002)
            running = process.poll() is None
            started = time.monotonic()
            ended = h.end(number)
            h.check(f"it ends with {code} in the middle of a backup", ended == code and running, f"exit code {ended}",
                    f"{time.monotonic() - started:.2f} s, with an idle client, one that waits for a lock and one that reads nothing")
            h.check("no lock is left", not any(h.locks(name) for name in ("repository", "idle", "deaf")))
            h.check("nothing unfinished is left", not bed.staged_files(h.place / "repository"), bed.staged_files(h.place / "repository"))
            h.check("neither socket nor process id is left", os.listdir(h.socket.parent) == [])
            process.communicate(timeout=60)
            h.check("the client is told", process.returncode != 0)
            h.start()
            client.run("create", "y", ".", cwd=source)
            h.check("the next server serves the same repository", True)
            del idle, waiting, deaf


@scenario
def told_to_end_on_pipes(options, report):
    """The same for a server of one client, which ssh has started."""
    with bed.closing(Harbour("weakness 2: on pipes", options, report, start=False, inside=MEMORY)) as h:
        serving = [bed.Server(options.server, cwd=h.place.path, environment={"BORG_HOST_ID": "sockets@1"}) for _ in range(2)]
        holder, waiting = serving
        holder.call("open", path=str(h.place / "repository"), create=True, exclusive=True, lock_wait=1)
        waiting.send("open", {"path": str(h.place / "repository"), "exclusive": True, "lock_wait": 3600})
        time.sleep(0.3)
        waiting.process.send_signal(signal.SIGTERM)
        h.check("SIGTERM ends a request that waits, with 143", waiting.process.wait(10) == 143 and len(h.locks()) == 1)
        holder.process.send_signal(signal.SIGTERM)
        h.check("and a server that holds a lock, with 143 and without the lock", holder.process.wait(10) == 143 and not h.locks())


@scenario
def told_to_end_twice(options, report):
    with bed.closing(Harbour("a second signal", options, report, inside=MEMORY)) as h:
        deaf = h.peer().open(h.place / "deaf")
        deaf.call("put", id=bytes(32), data=bytes(2 << 20))
        deaf.socket.sendall(b"".join(deaf.request("get", id=bytes(32)) for _ in range(20)))
        h.process.send_signal(signal.SIGTERM)
        h.process.send_signal(signal.SIGHUP)
        time.sleep(0.4)
        h.check("two that come at once are one", h.process.poll() is None)
        started = time.monotonic()
        h.check("a later one ends the server at once", h.end(signal.SIGINT) in (129, 130, 143), note=f"{time.monotonic() - started:.2f} s")


@scenario
def activation(options, report):
    activate = shutil.which("systemd-socket-activate")
    if not activate:
        return report.skip("activation", "systemd-socket-activate is missing")
    with bed.closing(Harbour("activation", options, report, start=False)) as h:
        second = h.socket.with_name("second")
        with open(h.log, "ab") as log:
            h.process = subprocess.Popen([activate, f"--listen={h.socket}", f"--listen={second}", options.server, "serve", "--socket=/nonexistent/x"],
                                         stderr=log, start_new_session=True)
        bed.wait_until(second.exists, PROMPT)
        h.client().run("repo-create", "-e", "none")
        h.client().run("repo-list")
        h.check("stock clients are served on a socket that systemd made", str(h.socket) in h.said())
        peer = Peer(second).open(h.place / "other")
        h.check("and on a second one", f"listening on socket {second}" in h.said() and "r" in peer.call("info"))
        h.check("no process id is written", sorted(os.listdir(h.socket.parent)) == ["second", "x.sock"])
        h.check("it ends with 143", h.end() == 143)
        h.check("and leaves systemd's sockets alone", h.socket.exists() and second.exists())
        with open(h.log, "ab") as log:
            third = h.place / "third"
            h.process = subprocess.Popen([activate, "--datagram", f"--listen={third}", options.server, "serve", "--socket"],
                                         stderr=log, start_new_session=True)
            bed.wait_until(third.exists, PROMPT)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"x", str(third))
            h.check("a descriptor of another kind is refused", h.process.wait(10) == 2)


@scenario
def readiness(options, report):
    for kind in ("path", "abstract"):
        with bed.closing(Harbour(f"readiness, {kind}", options, report, start=False)) as h:
            address = str(h.place / "notify") if kind == "path" else f"@borg-serve-{os.getpid()}-{options.seed}"
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(address.replace("@", "\0"))
                manager.settimeout(PROMPT)
                h.environment = {"NOTIFY_SOCKET": address}
                h.start(wait=False)
                h.check("it says READY=1 when clients are served", manager.recv(1000) == b"READY=1" and h.lives())
                ended = h.end()
                h.check("and STOPPING=1 before it ends", manager.recv(1000) == b"STOPPING=1" and ended == 143)


@scenario
def default_path(options, report):
    with bed.closing(Harbour("default path", options, report, start=False)) as h:
        private, open_to_all = h.place.directory("private"), h.place.directory("open")
        private.chmod(0o700)
        open_to_all.chmod(0o755)
        temporary = h.place.directory("tmp")
        temporary.chmod(0o1777)
        base = h.place.directory("b")
        for name, environment, expected in (
            ("BORG_RUNTIME_DIR", {"BORG_RUNTIME_DIR": str(h.place / "r")}, h.place / "r/borg.sock"),
            ("BORG_BASE_DIR", {"BORG_BASE_DIR": str(base)}, base / ".cache/borg/borg.sock"),
            ("XDG_RUNTIME_DIR", {"XDG_RUNTIME_DIR": str(private)}, private / "borg/borg.sock"),
            ("a runtime directory that is open to others, so another one",
             {"XDG_RUNTIME_DIR": str(open_to_all), "TMPDIR": str(temporary)}, None),
        ):
            with open(h.log, "ab") as log:
                h.process = subprocess.Popen([options.server, "serve", "--socket"], stderr=log, start_new_session=True,
                                             env={"PATH": os.environ["PATH"], "HOME": str(h.place.directory("h")), **environment})
            fallbacks = [Path(f"/run/user/{os.geteuid()}/borg/borg.sock"), temporary / f"runtime-{os.geteuid()}/borg/borg.sock"]
            found = bed.wait_until(lambda: any(p.exists() for p in ([expected] if expected else fallbacks)), PROMPT)
            client = bed.Client("2.0.0b18", h.place, home="h", repository=f"socket://{h.place / 'repository'}")
            client.environment.pop("BORG_BASE_DIR")
            client.environment.update({"TMPDIR": str(temporary)}, **environment)
            command = "repo-info" if (h.place / "repository").exists() else "repo-create"
            outcome = client.run(command, *(["-e", "none"] if command == "repo-create" else []))
            h.check(f"a stock client finds the server: {name}", found is not None and outcome.code == 0, f"{outcome}\n{h.said()}")
            h.end()


@scenario
def connected_standard_input(options, report):
    """As inetd does, and systemd with Accept=yes."""
    with bed.closing(Harbour("standard input is a socket", options, report, start=False)) as h:
        ours, theirs = socket.socketpair()
        with open(h.log, "ab") as log:
            h.process = subprocess.Popen([options.server, "serve"], stdin=theirs, stdout=theirs, stderr=log, start_new_session=True)
        theirs.close()
        peer = Peer.__new__(Peer)
        msgpack = bed.load_msgpack()
        peer.pack, peer.unpacker = msgpack.Packer(use_bin_type=True).pack, msgpack.Unpacker(raw=False, strict_map_key=False)
        peer.socket, peer.number = ours, 0
        ours.settimeout(PROMPT)
        peer.open(h.place / "repository")
        h.check("it is served", "r" in peer.call("info"))
        ours.close()
        h.check("and ends with its client, the lock released", h.process.wait(10) == 0 and not h.locks())


def main():
    parser = bed.parser(__doc__, limit=600)
    scenario.add_argument(parser)
    options = bed.parse(parser)
    report = bed.Report()
    for play in scenario.chosen(options):
        started = time.monotonic()
        play(options, report)
        print(f"        {play.__name__}: {time.monotonic() - started:.0f} s")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
