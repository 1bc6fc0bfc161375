"""Test beds that the programs beside it share: temporary places, clients, servers, sshd, file systems, comparisons.

Everything that a bed starts or mounts is undone when the program ends, also when it ends by an exception or a signal.
Only the standard library; the servers' wire format needs the msgpack package, which any Borg client brings along.
"""

import argparse
import atexit
import collections
import fcntl
import hashlib
import os
import platform
import random
import re
import select
import shlex
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = Path(os.environ.get("BORG_CLIENTS", ROOT / ".build-clients"))
ORIGINAL_VERSION = "2.0.0b18"
SKIPPED = 77


# --- ending -----------------------------------------------------------------------------------------------------------


def skip(reason):
    """Ends the program as skipped, loudly: exit code 77 is neither success nor failure to scripts/test."""
    print(f"SKIPPED: {reason}", flush=True)
    print(f"SKIPPED: {reason}", file=sys.stderr, flush=True)
    sys.exit(SKIPPED)


def die(reason):
    print(f"{Path(sys.argv[0]).name}: {reason}", file=sys.stderr, flush=True)
    sys.exit(2)


def end_cleanly_on_signals(limit):
    """Turns termination into an ordinary exit, so that beds are torn down, and ends a hanging run after `limit` s."""

    def end(number, frame):
        what = f"no end after {limit} s" if number == signal.SIGALRM else signal.Signals(number).name
        print(f"ended: {what}", file=sys.stderr, flush=True)
        # timeout(1) signals its child and then the whole group: the second one must not break off the tearing down.
        for other in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(other, signal.SIG_IGN)
        sys.exit(124 if number == signal.SIGALRM else 128 + number)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, end)
    signal.alarm(limit)


class Report:
    """Counts what was proved, prints one line for each, and knows the exit code."""

    def __init__(self):
        self.passed, self.failures, self.skips = 0, [], []
        self.started = time.monotonic()

    def ok(self, name, note=""):
        self.passed += 1
        print(f"  ok    {name}" + (f"   ({note})" if note else ""), flush=True)

    def fail(self, name, detail=""):
        self.failures.append(name)
        print(f"  FAIL  {name}", flush=True)
        for line in str(detail).rstrip().splitlines():
            print(f"        {line}", flush=True)

    def skip(self, name, reason):
        self.skips.append(name)
        print(f"  SKIP  {name}: {reason}", flush=True)

    def check(self, name, condition, detail="", note=""):
        if condition:
            self.ok(name, note)
        else:
            self.fail(name, detail)
        return bool(condition)

    def finish(self):
        for name in self.failures:
            print(f"failed: {name}")
        seconds = time.monotonic() - self.started
        print(f"{self.passed} passed, {len(self.failures)} failed, {len(self.skips)} skipped in {seconds:.0f} s", flush=True)
        return 1 if self.failures or not self.passed else 0


# --- scenarios --------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """A step went wrong on which the rest of its scenario stands."""


class Scenarios(dict):
    """The scenarios of a program by name, in their order; made known by using the object as a decorator."""

    def __call__(self, function):
        self[function.__name__] = function
        return function

    def add_argument(self, made):
        """Lets `made` (see `parser`) take the names of those to run."""
        made.add_argument("scenarios", nargs="*", help=f"of {' '.join(self)} (default: all)")

    def chosen(self, options):
        """The functions of those to run."""
        for name in options.scenarios:
            if name not in self:
                die(f"no such scenario: {name}")
        return [self[name] for name in options.scenarios or self]


def run_beside_each_other(actions, threads):
    """Runs all of them; the first exception ends the program, as does a signal, without waiting for the others."""
    waiting, failures, lock = collections.deque(actions), [], threading.Lock()

    def work():
        try:
            while not failures:
                with lock:
                    action = waiting.popleft() if waiting else None
                if not action:
                    break
                action()
        except BaseException as error:
            failures.append(error)

    workers = [threading.Thread(target=work, daemon=True) for _ in range(threads)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers) and not failures:
        time.sleep(0.05)
    if failures:
        raise failures[0]


class closing:
    """Closes what a scenario is played on, and turns what broke it off into a failure of the scenario.

    `made` has `check` and `close`, and may have `said`, which adds what its server printed.
    """

    def __init__(self, made):
        self.made = made

    def __enter__(self):
        return self.made

    def __exit__(self, kind, error, trace):
        handled = kind is not None and issubclass(kind, (Failed, OSError, subprocess.TimeoutExpired))
        if handled:
            said = getattr(self.made, "said", lambda: "")()
            self.made.check("went on", False, f"{error if kind is Failed else repr(error)}\n{said[-1500:]}")
        self.made.close()
        return handled


# --- arguments --------------------------------------------------------------------------------------------------------


def parser(program, limit):
    """The options that all programs have; `program` is the module's docstring."""
    made = argparse.ArgumentParser(description=program, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--server", default=str(ROOT / ".build/release/borg-serve"), metavar="PATH",
                      help="the server under test, started as `PATH serve …` (default: the release build)")
    made.add_argument("--original", metavar="PATH",
                      help=f"the original to compare with (default: the {ORIGINAL_VERSION} client)")
    made.add_argument("--seed", type=int, default=int(time.time()) % 100000, help="of everything that is random here")
    made.add_argument("--keep", action="store_true", help="leave the temporary directory for a look")
    made.add_argument("--limit", type=int, default=limit, metavar="SECONDS", help="give up after this long (%(default)s)")
    return made


def parse(made):
    """Parses and resolves what `parser` made; ends the program when something that it needs is missing."""
    options = made.parse_args()
    options.original = str(options.original or client_path(ORIGINAL_VERSION))
    for name in ("server", "original"):
        found = shutil.which(getattr(options, name))
        if not found:
            die(f"no such program: {getattr(options, name)}" + (
                " (build it: swift build -c release --product borg-serve)" if name == "server" else ""))
        setattr(options, name, os.path.abspath(found))
    os.umask(0o077)
    end_cleanly_on_signals(options.limit)
    print(f"{Path(sys.argv[0]).name}: server {options.server}, seed {options.seed}", flush=True)
    return options


def client_path(version):
    path = CLIENTS / version / "bin/borg"
    if not path.exists():
        die(f"no {version} client below {CLIENTS} (build it: scripts/clients {version})")
    return path


def speaks_rest(version):
    """Whether clients of a version speak HTTP to their servers."""
    return version >= "2.0.0b22"


def dialect(version):
    """The options of `serve` that clients of a version need."""
    return ["--rest"] if speaks_rest(version) else []


def encryption(version):
    """The options of repo-create for a repository that is made and read quickly; from b25 on there is no "none"."""
    return ["-e", "aes256-ocb" if speaks_rest(version) else "none"]


def load_msgpack():
    """The msgpack package: the system's, else that of any Borg client."""
    try:
        import msgpack
    except ImportError:
        for place in sorted(CLIENTS.glob("*/lib/python3*/site-packages")):
            sys.path.append(str(place))
        try:
            import msgpack
        except ImportError:
            die("the Python package msgpack is missing (any client brings it: scripts/clients 2.0.0b18)")
    return msgpack


# --- places -----------------------------------------------------------------------------------------------------------


class Place:
    """A temporary directory with everything in it; `undo` registers what must happen before it is removed."""

    def __init__(self, name, keep=False, inside=None):
        self.path = Path(tempfile.mkdtemp(prefix=f"borg-serve-{name}-", dir=inside)).resolve()
        self.path.chmod(0o755)
        self.keep = keep
        self._undo = []
        atexit.register(self.close)

    def __truediv__(self, name):
        return self.path / name

    def undo(self, action):
        self._undo.append(action)

    def directory(self, name):
        made = self.path / name
        made.mkdir(parents=True, exist_ok=True)
        return made

    def close(self):
        left = signal.alarm(0)  # what is undone is undone, whatever the time
        while self._undo:
            try:
                self._undo.pop()()
            except Exception as error:
                print(f"while cleaning up: {error!r}", file=sys.stderr)
        if self.keep:
            print(f"kept: {self.path}")
        else:
            shutil.rmtree(self.path, ignore_errors=True)
        atexit.unregister(self.close)
        if left:
            signal.alarm(left)


def make_tree(directory, seed, *, megabytes=4, small_files=150):
    """A folder such as people back up: many small files, some large, every kind of entry, odd names, odd times."""
    rng = random.Random(seed)
    directory.mkdir(parents=True, exist_ok=True)
    words = ["alpha", "beta", "gamma", "delta", "a b", "ünïcödé", "-dash", "dot.", "new\nline", "日本"]
    for number in range(small_files):
        folder = directory / "small" / rng.choice(words) / str(number % 7)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}-{rng.choice(words)}").write_bytes(rng.randbytes(rng.choice([0, 1, 100, 3000, 20000])))
    large = directory / "large"
    large.mkdir(exist_ok=True)
    for number in range(megabytes):
        (large / f"random-{number}").write_bytes(rng.randbytes(1 << 20))
    (large / "zeros").write_bytes(bytes(2 << 20))
    (large / "text").write_bytes(b"".join(b"line %d of a text\n" % k for k in range(50000)))
    # No sparse file: the chunker of a 2.0.0b18 client, freshly built, crashes on holes at a file's end.
    kinds = directory / "kinds"
    kinds.mkdir(exist_ok=True)
    (kinds / "empty directory").mkdir(exist_ok=True)
    (kinds / "file").write_text("hard-linked")
    for name, make in {
        "hard link": lambda p: os.link(kinds / "file", p),
        "symlink": lambda p: os.symlink("file", p),
        "dangling": lambda p: os.symlink("/nonexistent/target", p),
        "fifo": os.mkfifo,
    }.items():
        if not os.path.lexists(kinds / name):
            make(kinds / name)
    (kinds / "modes").write_text("x")
    (kinds / "modes").chmod(0o4751)
    for path in sorted(directory.rglob("*")):
        if path.is_file() and not path.is_symlink():
            os.utime(path, ns=(10**18, 10**18 + rng.randrange(5 * 10**17)))
    return directory


def fingerprint(directory):
    """What a restored folder must have in common with the original: {relative path: everything that Borg keeps of it}."""
    result, links = {}, {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        kind = stat.filemode(info.st_mode)[0]
        entry = [kind, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid]
        if kind == "-":
            entry += [info.st_size, info.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()]
            if info.st_nlink > 1:
                entry.append("linked to " + links.setdefault((info.st_dev, info.st_ino), str(path.relative_to(directory))))
        elif kind == "l":
            entry.append(os.readlink(path))
        elif kind != "d":
            entry.append(info.st_mtime_ns)
        result[str(path.relative_to(directory))] = tuple(entry)
    return result


def difference(expected, found, limit=8):
    """A short readable list of the differences of two dictionaries; empty when they are equal."""
    lines = []
    for name in sorted(set(expected) | set(found)):
        if expected.get(name) != found.get(name):
            lines.append(f"{name!r}: expected {expected.get(name)!r}, found {found.get(name)!r}")
    return "\n".join(lines[:limit] + ([f"… and {len(lines) - limit} more"] if len(lines) > limit else []))


# --- repositories as directories --------------------------------------------------------------------------------------


def lock_files(repository):
    """Names of lock objects of a Borg 2 repository."""
    try:
        return sorted(name for name in os.listdir(repository / "locks") if not name.endswith(".tmp"))
    except FileNotFoundError:
        return []


def staged_files(repository):
    """Files that are not yet, or never became, objects: `*.tmp`, or inside a directory `*.tmp` (which may stay empty)."""
    found = []
    for folder, _, names in os.walk(repository):
        staging = any(part.endswith(".tmp") for part in Path(folder).relative_to(repository).parts)
        found += [os.path.relpath(os.path.join(folder, name), repository) for name in names if staging or name.endswith(".tmp")]
    return sorted(found)


def misnamed_objects(repository):
    """Objects of a repository of formats 4 and 5 whose name is not the hash of their content, where it has to be, and
    whatever stands in the wrong directory: what half of a write, or a rename without a sync, leaves."""
    from differential_rest import digest

    found = []
    for namespace in ("packs", "index", "keys", "locks"):
        for path in sorted((repository / namespace).rglob("*")):
            name = str(path.relative_to(repository))
            if not path.is_file() or ".tmp" in name:
                continue
            content = path.read_bytes()
            place = f"packs/{path.name[:2]}/{path.name}" if namespace == "packs" else f"{namespace}/{path.name}"
            if name != place or path.name not in (digest(content, "blake3"), digest(content, "sha256")):
                found.append(f"{name} ({len(content)} bytes)")
    return found


def empty_objects(repository):
    """Objects of 0 bytes where no empty object is legal: what a rename without a sync leaves after a power cut."""
    return sorted(
        str(path.relative_to(repository))
        for namespace in ("data", "config", "cache")
        for path in (repository / namespace).rglob("*")
        if path.is_file() and path.stat().st_size == 0 and ".tmp" not in str(path.relative_to(repository))
    )


# --- clients ----------------------------------------------------------------------------------------------------------


class Outcome:
    def __init__(self, command, code, output, seconds):
        self.command, self.code, self.output, self.seconds = command, code, output, seconds

    def __str__(self):
        tail = "\n".join(self.output.rstrip().splitlines()[-25:])
        return f"$ {shlex.join(map(str, self.command))}\nexit code {self.code} after {self.seconds:.1f} s\n{tail}"


class Client:
    """A stock Borg client with a home directory of its own, upon one repository."""

    def __init__(self, version, place, *, home="home", repository=None, rsh=None, host_id=None, **environment):
        self.version = version
        self.borg = client_path(version)
        self.environment = {
            "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
            "HOME": str(place.directory(home)),
            "LANG": "C.UTF-8",
            "BORG_BASE_DIR": str(place.directory(home)),
            "BORG_PASSPHRASE": "correct horse",
            "BORG_RELOCATED_REPO_ACCESS_IS_OK": "yes",
            "BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK": "yes",
            "BORG_CHECK_I_KNOW_WHAT_I_AM_DOING": "YES",
            "BORG_DELETE_I_KNOW_WHAT_I_AM_DOING": "YES",
            "BORG_SELFTEST": "disabled",
            "BORG_TESTONLY_WEAKEN_KDF": "1",
            **environment,
        }
        if repository:
            self.environment["BORG_REPO"] = repository
        if rsh:
            self.environment["BORG_RSH"] = rsh
        if host_id:
            self.environment["BORG_HOST_ID"] = host_id

    def start(self, *arguments, cwd=None, **more):
        """Starts a command in a process group of its own; its output is the caller's affair."""
        environment = {**self.environment, **more.pop("environment", {})}
        if "BORG_RSH" in environment:
            environment.setdefault("BORGSTORE_RSH", environment["BORG_RSH"])  # 2.0.0b22 heeds only this one
        return subprocess.Popen([str(self.borg), *map(str, arguments)], cwd=cwd, start_new_session=True, env=environment,
                                **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **more})

    def run(self, *arguments, cwd=None, input=None, timeout=300, environment={}):
        started = time.monotonic()
        command = [str(self.borg), *map(str, arguments)]
        process = self.start(*arguments, cwd=cwd, environment=environment,
                             **({"stdin": subprocess.PIPE} if input is not None else {}))
        try:
            output, _ = process.communicate(input, timeout=timeout)
            code = process.returncode
        except subprocess.TimeoutExpired:
            kill_group(process)
            output, code = process.communicate()[0] + b"\n(killed: it did not end)", "timeout"
        return Outcome(command, code, output.decode(errors="replace"), time.monotonic() - started)


def kill_group(process, number=signal.SIGKILL):
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


# --- servers behind BORG_RSH ------------------------------------------------------------------------------------------


class Pipes:
    """Serves clients without ssh: a command for BORG_RSH that ignores the host and becomes the server, as the forced
    command of an ssh key would; like sshd it hands on the command that the client asked for, in SSH_ORIGINAL_COMMAND.

    `pids()` are the processes that it became, in order, so that tests can kill them.
    """

    def __init__(self, place, name, server, *arguments, environment={}, wrapper=()):
        self.name = name
        self.log = place / f"{name}.pids"
        script = place / f"{name}.rsh"
        lines = ["#!/bin/sh", f"echo $$ >> {shlex.quote(str(self.log))}",
                 'while [ $# -gt 1 ] && [ "$2" != serve ]; do shift; done', 'export SSH_ORIGINAL_COMMAND="$*"']
        lines += [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
        lines += ["exec " + shlex.join([*wrapper, server, "serve", *arguments])]
        script.write_text("\n".join(lines) + "\n")
        script.chmod(0o755)
        self.rsh = str(script)

    def url(self, repository, version=ORIGINAL_VERSION):
        return f"{'rest' if '2.0.0b22' <= version < '2.0.0b25' else 'ssh'}://test/{repository}"

    def pids(self):
        try:
            return [int(line) for line in self.log.read_text().split()]
        except FileNotFoundError:
            return []

    def alive(self):
        return [pid for pid in self.pids() if is_alive(pid)]


def is_alive(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def wait_until(condition, seconds, interval=0.01):
    """Polls until `condition()` is true; the time that it took, or None."""
    started = time.monotonic()
    while True:
        if condition():
            return time.monotonic() - started
        if time.monotonic() - started > seconds:
            return None
        time.sleep(interval)


class SSHD:
    """A throw-away sshd on a free loopback port; each name in `forced` is a user key with that forced command, or with the
    line of authorized_keys that a function makes of the path of its public key.

    `settings` go before ours in sshd_config, so they count, and `blocks` (Match) after them. `inside` is a command that
    starts sshd elsewhere, such as in a network namespace, where it listens at `address` and port 22; `user` logs in.
    """

    def __init__(self, place, forced, *, settings=(), blocks=(), inside=(), address="127.0.0.1", user=None):
        daemon = shutil.which("sshd") or "/usr/sbin/sshd"
        for program in (daemon, "ssh", "ssh-keygen"):
            if not shutil.which(program):
                skip(f"{program} is missing (apt-get install openssh-server openssh-client)")
        self.directory = place.directory("sshd")
        self.directory.chmod(0o755)
        self.address = address
        if os.geteuid() == 0:
            os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
            os.chmod("/run/sshd", 0o755)
        for key in ["host", *forced]:
            if not (self.directory / key).exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.directory / key], check=True)
        with open(self.directory / "authorized_keys", "wb") as authorized:
            for name, command in forced.items():
                public = self.directory / f"{name}.pub"
                if callable(command):
                    authorized.write(command(public))
                else:
                    # sshd knows no other escape than this one.
                    quoted = command.replace('"', '\\"')
                    authorized.write(f'command="{quoted}",restrict {public.read_text()}'.encode())
        (self.directory / "authorized_keys").chmod(0o644)
        user = user or subprocess.check_output(["id", "-un"], text=True).strip()
        for attempt in range(5):
            self.port = 22
            if address == "127.0.0.1":
                with socket.socket() as probe:
                    probe.bind((address, 0))
                    self.port = probe.getsockname()[1]
            (self.directory / "sshd.pid").unlink(missing_ok=True)
            (self.directory / "sshd_config").write_text("\n".join([
                *settings,
                f"ListenAddress {address}:{self.port}", f"HostKey {self.directory}/host", f"PidFile {self.directory}/sshd.pid",
                f"AuthorizedKeysFile {self.directory}/authorized_keys", "PermitRootLogin prohibit-password",
                "PasswordAuthentication no", "KbdInteractiveAuthentication no", "UsePAM no", "StrictModes no", "UseDNS no",
                "PrintMotd no", "PrintLastLog no", "MaxStartups 500:30:1000", "MaxSessions 500",
                "ClientAliveInterval 5", "ClientAliveCountMax 2", "LogLevel VERBOSE", *blocks, ""]))
            self.process = subprocess.Popen([*inside, daemon, "-D", "-f", self.directory / "sshd_config", "-E", self.directory / "sshd.log"])
            # sshd writes its pid file once it listens.
            if wait_until(lambda: self._listens() or self.process.poll() is not None, 5) is not None and self.process.poll() is None:
                break
        else:
            die("sshd does not start:\n" + (self.directory / "sshd.log").read_text())
        place.undo(self.stop)
        for name in forced:
            self.configure(name, name, user)

    def configure(self, name, key, user, *settings):
        """Writes the client's configuration NAME: the key, and what else the client is to do."""
        (self.directory / f"{name}.config").write_text(
            "Host *\n" + "".join(f"  {line}\n" for line in settings) +
            f"  HostName {self.address}\n  Port {self.port}\n  User {user}\n  IdentityFile {self.directory}/{key}\n"
            f"  IdentitiesOnly yes\n  BatchMode yes\n  StrictHostKeyChecking no\n"
            f"  UserKnownHostsFile {self.directory}/known_hosts\n  LogLevel ERROR\n")

    def _listens(self):
        return (self.directory / "sshd.pid").exists()

    def rsh(self, name):
        return f"ssh -F {self.directory / name}.config"

    def url(self, repository):
        return f"ssh://{self.address}/{repository}"  # the path keeps its leading slash: two of them mean an absolute path

    def stop(self):
        self.process.terminate()
        self.process.wait(10)


# --- a server spoken to directly --------------------------------------------------------------------------------------


class Answer:
    """What came back for one request: a value, or an exception's class and arguments."""

    def __init__(self, message):
        self.message = message
        self.failed = "exception_class" in message
        self.value = message.get("r")
        self.error = message.get("exception_class")
        self.arguments = message.get("exception_args")

    def __repr__(self):
        return f"{self.error}{self.arguments!r}" if self.failed else f"value {self.value!r}"


class Hangup(Exception):
    """The server ended, or closed its output, instead of answering."""


class Server:
    """One server process on pipes: sends a request, waits for its answer, keeps the log records that come between."""

    def __init__(self, command, *arguments, cwd=None, environment={}, stderr=None):
        msgpack = load_msgpack()
        self._pack = msgpack.Packer(use_bin_type=True, unicode_errors="surrogateescape").pack
        self._unpacker = msgpack.Unpacker(raw=False, unicode_errors="surrogateescape", strict_map_key=False,
                                          use_list=True, max_buffer_size=0)
        self.logs, self.number = [], 0
        self.stderr = tempfile.TemporaryFile() if stderr is None else stderr
        self.process = subprocess.Popen([command, "serve", *arguments], cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.stderr, bufsize=0, start_new_session=True,
                                        env={"PATH": os.environ.get("PATH", ""), "HOME": str(cwd or "/"), "LANG": "C.UTF-8", **environment})

    def send(self, method, arguments, *, number=None):
        self.number += 1
        self.send_raw(self._pack({"i": self.number if number is None else number, "m": method, "a": arguments}))
        return self.number if number is None else number

    def send_raw(self, data):
        view = memoryview(data)
        while view:
            view = view[os.write(self.process.stdin.fileno(), view):]

    def read(self, timeout=60):
        """The next message that is not a log record."""
        deadline = time.monotonic() + timeout
        while True:
            for message in self._unpacker:
                if isinstance(message, dict) and "l" in message:
                    self.logs.append(message["l"])
                else:
                    return message
            ready, _, _ = select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise Hangup(f"no answer within {timeout} s")
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                raise Hangup(f"the server hung up (exit code {self.process.wait(10)})")
            self._unpacker.feed(data)

    def call(self, method, _timeout=60, **arguments):
        number = self.send(method, arguments)
        message = self.read(_timeout)
        if message.get("i") != number:
            raise Hangup(f"answer to request {message.get('i')!r} instead of {number}")
        return Answer(message)

    def take_logs(self):
        taken, self.logs = self.logs, []
        return taken

    def end(self, timeout=20):
        """Closes the server's input, reads what is still to come and waits; its exit code."""
        self.process.stdin.close()
        try:
            while True:
                self.read(timeout)
        except Hangup:
            pass
        self.process.stdout.close()
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            return "timeout"

    def kill(self):
        kill_group(self.process)
        self.process.wait()

    def errors(self):
        self.stderr.seek(0)
        return self.stderr.read().decode(errors="replace")


# --- file systems of their own ----------------------------------------------------------------------------------------

FS_IOC_SHUTDOWN = 0x8004587D
NO_LOG_FLUSH = 2


def need_mounts():
    """Ends the program as skipped unless this is root with loop devices."""
    if os.geteuid() != 0:
        skip("needs root: it mounts file systems of its own")
    probe = subprocess.run(["losetup", "-f"], capture_output=True, text=True)
    if probe.returncode:
        skip(f"no loop device: {probe.stderr.strip()}")


class FileSystem:
    """A real file system in a file, on a loop device, whose power can be cut."""

    def __init__(self, place, name, kind="ext4", megabytes=256, options=""):
        self.image, self.path, self.kind = place / f"{name}.img", place.directory(name), kind
        maker = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}[kind]
        maker[0] = shutil.which(maker[0]) or f"/usr/sbin/{maker[0]}"
        if not os.path.exists(maker[0]):
            skip(f"{maker[0]} is missing")
        with open(self.image, "wb") as image:
            image.truncate(max(megabytes, 320 if kind == "xfs" else 0) << 20)
        subprocess.run([*maker, str(self.image)], check=True, stdout=subprocess.DEVNULL)
        # The journal must not save anybody who forgot to sync: commit=600 keeps ext4 from doing so every 5 s.
        self.options = ",".join(filter(None, ["loop", "commit=600" if kind == "ext4" else "", options]))
        self.mounted = False
        self.mount()
        place.undo(self.unmount)

    def mount(self):
        done = subprocess.run(["mount", "-t", self.kind, "-o", self.options, str(self.image), str(self.path)], capture_output=True, text=True)
        if done.returncode:
            skip(f"mount failed: {done.stderr.strip()}")
        self.mounted = True

    def cut(self):
        """The power is gone: nothing that is not on the medium now will ever be."""
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(handle, FS_IOC_SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(handle)

    def remount(self):
        self.unmount()
        self.mount()

    def unmount(self):
        if not self.mounted:
            return
        for _ in range(100):
            done = subprocess.run(["umount", str(self.path)], capture_output=True, text=True)
            if not done.returncode:
                self.mounted = False
                return
            time.sleep(0.05)
        raise RuntimeError(f"umount {self.path}: {done.stderr.strip()}")


def describe_machine():
    """One line on which the figures below it were measured."""
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), platform.machine())
    memory = int(re.search(r"MemTotal:\s+(\d+)", open("/proc/meminfo").read())[1]) / 2**20
    return f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release()}"
