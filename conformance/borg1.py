"""Borg 1.x for the test programs beside it: its programs, its clients, and a driver that speaks its protocol directly.

The originals are loaded once and forked for each command (preloaded.py), because most of a command's time is Python's
start; the server under test is started anew each time. Needs the msgpack package, as bed.py says.
"""

import json
import os
import re
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import bed
import preloaded

ORIGINALS = ("1.1.18", "1.2.9", "1.4.5")
MANIFEST = bytes(32)
LOADER = Path(preloaded.__file__).resolve()

# What either program says when the other one has left something wrong behind, or when it believes so.
COMPLAINTS = re.compile(r"Corrupted|refcount|reference count|not found, but listed|Traceback|AssertionError|Cleaned up .* failed"
                        r"|malformed lock|not securely erased")
# New index files that a killed process has not completed.
UNFINISHED = r"(index|hints|integrity)\.\d+\.tmp"
# What tells of a damage that a test has done itself, and of its repair.
RECOVERIES = re.compile(r"index missing or corrupted|hints file missing or corrupted|Checking repository transaction|Replaying segments")


# --- programs ---------------------------------------------------------------------------------------------------------


class Forked:
    """A process that is not a child of this one: a command of a preloaded program. The interface is Popen's."""

    def __init__(self, connection):
        self._connection, self._data, self.returncode = connection, b"", None
        while b"\n" not in self._data:
            more = connection.recv(100)
            if not more:
                raise OSError("the preloaded program did not start the command")
            self._data += more
        pid, _, self._data = self._data.partition(b"\n")
        self.pid = int(pid)

    def wait(self, timeout=None):
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.returncode is None:
            left = None if deadline is None else max(0, deadline - time.monotonic())
            if not select.select([self._connection], [], [], left)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            more = self._connection.recv(100)
            self._data += more
            if not more or b"\n" in self._data:
                self.returncode = int(self._data or b"70")
                self._connection.close()
        return self.returncode

    def poll(self):
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None


def kill(process, number=signal.SIGKILL):
    """Sends a signal to a process and its group; a fork that has only just begun has no group of its own yet."""
    for send in (os.killpg, os.kill):
        try:
            return send(process.pid, number)
        except ProcessLookupError:
            pass


class Program:
    """A Borg: `name` for reports, `version` of an original or None, and how its commands are started."""

    def __init__(self, place, name, path, version=None):
        self.place, self.name, self.path, self.version = place, name, str(path), version
        self._loaded = None

    def _load(self):
        if not self._loaded:
            path = tempfile.mktemp(".socket", dir=self.place.path)
            python = Path(self.path).parent / "python3"
            process = subprocess.Popen([str(python), str(LOADER), path], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                       env={"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8", "HOME": str(self.place.path)})
            self.place.undo(lambda: (process.stdin.close(), process.wait()))
            if process.stdout.readline() != b"ready\n":
                raise OSError(f"{self.name} cannot be loaded")
            self._loaded = path
        return self._loaded

    def start(self, words, stdin, stdout, stderr, environment, cwd="/", wrapper=()):
        """Starts a command upon open files, in a process group of its own."""
        environment = {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LANG": "C.UTF-8", **environment}
        if self.version and not wrapper:
            files = [file if isinstance(file, int) else file.fileno() for file in (stdin, stdout, stderr)]
            return Forked(preloaded.request(self._load(), list(map(str, words)), environment, str(cwd), files))
        return subprocess.Popen([*wrapper, self.path, *map(str, words)], cwd=cwd, env=environment, stdin=stdin, stdout=stdout,
                                stderr=stderr, start_new_session=True)

    def command(self):
        """Words that start this program, for scripts."""
        if self.version:
            return [sys.executable, "-I", "-S", str(LOADER), self._load()]
        return [self.path]

    def __repr__(self):
        return self.name


def originals(place, versions=ORIGINALS):
    return [Program(place, version, bed.client_path(version), version) for version in versions]


def under_test(place, options):
    """The server under test; an original in its place is known as one."""
    version = next((version for version in ORIGINALS if bed.client_path(version).samefile(options.server)), None)
    return Program(place, "the server under test", options.server, version)


class Pipes(bed.Pipes):
    """As bed.Pipes, for any program."""

    def __init__(self, place, name, program, *arguments, environment={}):
        environment = {**environment, "PRELOADED_LOG": str(place / f"{name}.pids")} if program.version else environment
        super().__init__(place, name, program.path, *arguments, environment=environment)
        self.program = program
        if program.version:
            script = Path(self.rsh)
            lines = [line for line in script.read_text().splitlines() if not line.startswith(("echo $$", "exec "))]
            script.write_text("\n".join([*lines, "exec " + shlex.join([*program.command(), "serve", *arguments])]) + "\n")

    def url(self, repository):
        return f"ssh://test{repository}"  # Borg 1.x: the path begins at its first slash


class Client:
    """A stock 1.x client with a home directory of its own."""

    def __init__(self, program, place, **environment):
        self.program, self.place = program, place
        home = str(place.directory(f"home-{program.name}"))
        self.environment = {
            "HOME": home, "BORG_BASE_DIR": home, "BORG_PASSPHRASE": "correct horse", "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes", "BORG_CHECK_I_KNOW_WHAT_I_AM_DOING": "YES",
            "BORG_DELETE_I_KNOW_WHAT_I_AM_DOING": "YES", "BORG_SELFTEST": "disabled", "BORG_DISPLAY_PASSPHRASE": "no",
            "BORG_HOSTNAME_IS_UNIQUE": "yes", **environment,
        }  # fmt: skip

    def start(self, *words, rsh=None, cwd=None, environment={}, output=None):
        """Starts a command; its output goes to the open file `output`, else it is lost."""
        environment = {**self.environment, **({"BORG_RSH": rsh} if rsh else {}), **environment}
        with open(os.devnull, "r+b") as nothing:
            output = output or nothing
            return self.program.start(words, nothing, output, output, environment, cwd or self.place.path)

    def run(self, *words, timeout=120, **more):
        started = time.monotonic()
        with tempfile.TemporaryFile() as output:
            process = self.start(*words, output=output, **more)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                kill(process)
                process.wait()
                code = "timeout"
            output.seek(0)
            text = output.read().decode(errors="replace")
        return bed.Outcome(["borg", f"({self.program.name})", *map(str, words)], code, text, time.monotonic() - started)


# --- a repository as a directory --------------------------------------------------------------------------------------


def leftovers(repository):
    """Names of locks and temporary files."""
    found = []
    if not os.path.isdir(repository):
        return ["(the repository is gone)"]
    for name in sorted(os.listdir(repository)):
        if name.startswith("lock.") or name.endswith(".tmp") or name == "config.old":
            found.append(name)
    for path in (Path(repository) / "data").rglob("*"):
        if not path.name.isdigit():
            found.append(str(path.relative_to(repository)))
    return found


def auxiliary(repository, kind):
    """The file `index.N`, `hints.N` or `integrity.N` with the highest N, or None."""
    found = [path for path in Path(repository).glob(f"{kind}.*") if path.suffix[1:].isdigit()]
    return max(found, key=lambda path: int(path.suffix[1:]), default=None)


def forget_hints(repository):
    """Removes hints, and index and digests with them: an original that still has to replay a commit does not survive the loss
    of hints alone. Whether there were any."""
    found = [path for kind in ("index", "hints", "integrity") for path in Path(repository).glob(f"{kind}.*") if path.suffix[1:].isdigit()]
    for path in found:
        path.unlink()
    return bool(found)


def segments(repository):
    """Paths of the segment files in their order."""
    found = [path for path in (Path(repository) / "data").glob("*/*") if path.name.isdigit()]
    return sorted(found, key=lambda path: int(path.name))


def damage(repository, rng, kind, how):
    """Removes, empties, truncates or changes the newest file of a kind; what was done, or None when there is none."""
    path = auxiliary(repository, kind)
    if path is None:
        return None
    data = path.read_bytes()
    if how in ("truncate", "change") and len(data) < 2:
        return None  # emptied before, and nobody has needed it since
    if how == "remove":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "truncate":
        path.write_bytes(data[: rng.randrange(1, len(data))])
    else:
        position = rng.randrange(len(data))
        path.write_bytes(data[:position] + bytes([data[position] ^ (1 << rng.randrange(8))]) + data[position + 1 :])
    return f"{path.name}: {how}"


def configure(repository, **settings):
    """Changes values in a repository's config."""
    path = Path(repository) / "config"
    text = path.read_text()
    for key, value in settings.items():
        text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", text)
        if not count:
            text = text.replace("[repository]\n", f"[repository]\n{key} = {value}\n")
    path.write_text(text)


# --- the protocol -----------------------------------------------------------------------------------------------------


class Server1:
    """One server process on pipes, spoken to as a 1.x client of `dialect` does.

    Answers are read as the strictest client reads them: byte strings of the old kind only.
    """

    def __init__(self, program, *arguments, environment={}, wrapper=(), dialect=(1, 4, 5)):
        msgpack = bed.load_msgpack()
        self._pack = msgpack.Packer(use_bin_type=False, unicode_errors="surrogateescape").pack
        self._unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, max_bin_len=0, max_ext_len=0, max_buffer_size=60 << 20)
        self.program, self.dialect, self.number = program, dialect, 0
        self.log = tempfile.TemporaryFile()
        theirs, self._input = os.pipe()
        self._output, theirs_too = os.pipe()
        home = str(program.place.directory("server-home"))
        try:
            self.process = program.start(["serve", *arguments], theirs, theirs_too, self.log, {"HOME": home, **environment}, wrapper=wrapper)
        finally:
            os.close(theirs)
            os.close(theirs_too)

    def send_raw(self, data):
        view = memoryview(data)
        try:
            while view:
                # A server that waits for its answer to be taken reads nothing.
                readable, writable, _ = select.select([self._output], [self._input], [], 60)
                if writable:
                    view = view[os.write(self._input, view[:4096]) :]  # a pipe that is ready takes as much without waiting
                elif not readable:
                    raise bed.Hangup("the server reads nothing for 60 s")
                elif not self._take():
                    raise bed.Hangup(f"the server hung up; it said: {self.said()[-800:]}")
        except BrokenPipeError:
            raise bed.Hangup("the server reads no more") from None

    def _take(self):
        """Takes what the server has sent; false at its end."""
        data = os.read(self._output, 1 << 20)
        self._unpacker.feed(data)
        return bool(data)

    def send(self, method, **arguments):
        self.number += 1
        self.send_raw(self._pack({"i": self.number, "m": method, "a": arguments}))
        return self.number

    def read(self, timeout=60):
        """The next answer, a bed.Answer with `number`."""
        deadline = time.monotonic() + timeout
        while True:
            for message in self._unpacker:
                if not isinstance(message, dict):
                    raise bed.Hangup(f"not an answer: {message!r}")
                answer = bed.Answer({key.decode(): value for key, value in message.items()})
                answer.number = answer.message["i"]
                if answer.failed:
                    answer.error = answer.error.decode()
                return answer
            if not select.select([self._output], [], [], max(0, deadline - time.monotonic()))[0]:
                raise bed.Hangup(f"no answer within {timeout} s")
            if not self._take():
                raise bed.Hangup(f"the server hung up; it said: {self.said()[-800:]}")

    def call(self, method, _timeout=60, **arguments):
        number = self.send(method, **arguments)
        answer = self.read(_timeout)
        if answer.number != number:
            raise bed.Hangup(f"answer to request {answer.number!r} instead of {number}")
        return answer

    def must(self, method, **arguments):
        answer = self.call(method, **arguments)
        if answer.failed:
            raise bed.Failed(f"{self.program}: {method} failed: {answer!r}\n{self.said()[-800:]}")
        return answer.value

    def negotiate(self):
        """The first message has the tuple form, whatever the version."""
        self.number += 1
        self.send_raw(self._pack([1, self.number, "negotiate", [{"client_version": [*self.dialect, -1]}]]))
        while True:
            for message in self._unpacker:
                if message[:3] != [1, self.number, None] or b"server_version" not in message[3]:
                    raise bed.Failed(f"{self.program}: answer to negotiate: {message!r}")
                return message[3][b"server_version"]
            if not self._take():
                raise bed.Hangup(f"the server hung up; it said: {self.said()[-800:]}")

    def open(self, path, *, exclusive=True, create=False, lock=True, lock_wait=10, append_only=False):
        self.negotiate()
        more = {"make_parent_dirs": False} if self.dialect >= (1, 1, 9) else {}
        return self.must("open", path=str(path), create=create, lock_wait=lock_wait, lock=lock, exclusive=exclusive,
                         append_only=append_only, **more)

    def said(self):
        """What came on stderr so far: the messages of its log lines, and other lines as they are."""
        self.log.seek(0)
        lines = []
        for line in self.log.read().decode(errors="replace").splitlines():
            if line.startswith("{"):
                record = json.loads(line)
                if record["type"] != "log_message":
                    continue
                line = f"{record['levelname']} {record['message']}"
            lines.append(line)
        return "\n".join(lines)

    def close_pipes(self):
        for name in ("_input", "_output"):
            if getattr(self, name) is not None:
                os.close(getattr(self, name))
                setattr(self, name, None)

    def end(self, timeout=30):
        """Closes the server's input, and waits; its exit code."""
        os.close(self._input)
        self._input = None
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            code = "timeout"
        self.close_pipes()
        return code

    def kill(self, number=signal.SIGKILL):
        kill(self.process, number)
        self.process.wait(30)
