"""The sections of bench.py for Borg 1: our server against the original 1.4.5, on the same repositories.

Streams of puts and gets are measured as those of Borg 2 are. Large repositories are written directly (segments.py) onto a
disk, for theirs is the pace to beat: "cold" means that their files were taken out of the page cache before, "warm" that they
were read just before; warm is left out where they would fill more than half of the memory. Below a virtual machine, "cold"
measures the host's cache and whoever shares its disks: figures of cold repositories mean something beside their limit only,
and over several runs. Both servers sync. The limits:

- opening ten million objects, for `get` and `__len__`: reading the index once; a commit: writing as many bytes and fsync;
- rebuilding the index and `check`: reading all segments once;
- compaction: reading all segments once, writing half of the bytes and fdatasync.

What was rebuilt and compacted is checked by the original.
"""

import os
import re
import shutil
import subprocess
import sys
import time

import bed
import measure
import streams
from measure import MIB, Figures, Goal, cpu_of, memory_of, private_memory_of
from segments import identity

ORIGINAL_VERSION = "1.4.5"
PATIENCE = 3600  # seconds for one answer
BATCH = 1000  # requests sent before their answers are read: those of more might fill the pipe


class Borg1:
    def __init__(self, bench):
        self.bench, self.options = bench, bench.options
        self.python = bed.client_path(ORIGINAL_VERSION).parent / "python"
        self.original = os.path.abspath(self.options.original_borg1 or bed.client_path(ORIGINAL_VERSION))
        self.servers = {"original": self.original, "ours": self.options.server}
        self.figures = Figures(self.servers, judged=not bench.quick)
        self.note = self.figures.note
        self.environment = {"PATH": os.environ["PATH"], "HOME": str(bench.place.path), "LANG": "C.UTF-8",
                            "BORG_BASE_DIR": str(bench.place / "home")}
        self.sections = {"borg1-start": self.start, "borg1-small": self.small, "borg1-big": self.big, "borg1-objects": self.objects,
                         "borg1-rebuild": self.rebuild, "borg1-compact": self.compact}

    def session(self, name, repository=None, exclusive=False):
        return Session(self.servers[name], self.bench.place, self.environment, repository, exclusive)

    # --- streams ----------------------------------------------------------------------------------------------------------

    def start(self, _):
        for _ in range(3 if self.bench.quick else 10):
            for name in self.servers:
                started = time.perf_counter()
                session = self.session(name)
                self.note("start to first answer, ms", name, (time.perf_counter() - started) * 1000, Goal(most=6))
                self.note("resident when idle, MB", name, memory_of(session.process.pid, "VmRSS") / 1000, Goal(most=12))
                self.note("private when idle, MB", name, private_memory_of(session.process.pid) / 1000)
                # Ended before a repository was opened, the original says so on standard output, which is no message.
                session.kill()

    def small(self, run):
        self.streams(run, "small", "1 KiB", put=Goal(times=15), gets={None: Goal(times=10)})

    def big(self, run):
        self.streams(run, "big", "1 MiB", put=Goal(times=1.5), gets={"as sshd makes it": Goal(times=4), "large": Goal(times=4)})

    def streams(self, run, kind, size, put, gets):
        count, _ = self.bench.sizes[kind]
        label = f"{count:,} × {size}"
        for name in self.bench.order(run):
            directory, end = self.bench.disk()
            taken = self.feed(name, kind, "put", directory)
            with self.session(name, directory / "repository") as session:
                session.expect(count, "__len__")
            self.note(f"put {label} from a file, with commit, s", name, taken.seconds, put)
            self.note_memory(f"put {label}", name, taken)
            for pipe, goal in gets.items():
                taken = self.feed(name, kind, "get", directory, pipe)
                through = {None: "", "as sshd makes it": " through a pipe that the server may enlarge", "large": " through a pipe of 1 MiB"}[pipe]
                self.note(f"get {label}{through}, s", name, taken.seconds, goal)
            self.note_memory(f"get {label}", name, taken)
            if run == 0:
                self.verify(name, kind, directory)
            end()

    def note_memory(self, what, name, taken):
        self.note(f"{what}, CPU s", name, taken.cpu)
        self.note(f"{what}, peak memory, MB", name, taken.peak)
        self.note(f"{what}, of that private, MB", name, taken.private)

    def feed(self, name, kind, phase, directory, pipe=None):
        return measure.feed([self.servers[name], "serve"], self.stream(kind, phase), directory, self.environment, pipe=pipe)

    def stream(self, kind, phase):
        path, (count, size) = self.bench.place / f"borg1-{kind}.{phase}", self.bench.sizes[kind]
        if not path.exists():
            with open(path, "wb") as out:
                streams.write(out, phase, count, size, "repository", borg1=True)
        return path

    def verify(self, name, kind, directory):
        """That the answers that were thrown away while measuring were the objects."""
        count, size = self.bench.sizes[kind]
        good = 0
        with open(self.stream(kind, "get"), "rb") as source:
            server = subprocess.Popen([self.servers[name], "serve"], cwd=directory, env=self.environment, stdin=source, stdout=subprocess.PIPE)
            for message in bed.load_msgpack().Unpacker(server.stdout, raw=True, max_buffer_size=0, read_size=MIB):
                answer = message.get(b"r") if isinstance(message, dict) else None
                # The first two are those to `negotiate` and `open`.
                if answer and len(answer) == size and answer.startswith(identity(message[b"i"] - 3)[:8]):
                    good += 1
            server.wait(60)
        if good != count:
            bed.die(f"{name} delivered {good} of {count} objects")

    # --- large repositories -----------------------------------------------------------------------------------------------

    def objects(self, run):
        if run > 0:
            return
        count = self.options.objects
        with Large(self, "borg1-objects", megabytes=count * 400 / 1e6) as large:
            if not large:
                return
            repositories = {"original": large.make("original", "--objects", count)[0]}
            repositories["ours"] = large.copy(repositories["original"], "ours")
            stored = dict.fromkeys(self.servers, count)
            label = f"{count:,} objects: "
            for number in range(self.options.runs):
                for name in self.bench.order(number, "limit"):
                    if name == "limit":
                        self.limits_of_objects(label, large.path, repositories["original"])
                    else:
                        self.open_and_commit(label, name, repositories[name], number, stored)

    def open_and_commit(self, label, name, repository, number, stored):
        for state, goal in (("cold", Goal(times=2)), ("warm", Goal(times=2))):
            set_cache(repository, state)
            started = time.perf_counter()
            with self.session(name, repository) as session:
                session.expect(8, "get", len, id=identity(7))
                self.note(f"{label}start to the first answer to `get`, {state}, s", name, time.perf_counter() - started, goal)
                self.note(f"{label}start to the first answer to `get`, {state}, CPU s", name, cpu_of(session.process.pid))
        set_cache(repository, "warm")
        started = time.perf_counter()
        with self.session(name, repository) as session:
            session.expect(stored[name], "__len__")
            self.note(f"{label}start to the first answer to `__len__`, warm, s", name, time.perf_counter() - started, Goal(times=2))
            session.expect(8, "get", len, id=identity(stored[name] // 2))
            self.note(f"{label}private memory when open for reading, MB", name, private_memory_of(session.process.pid) / 1000,
                      Goal(most=2 + 2 * self.options.objects / 1e6))
            self.note(f"{label}resident memory when open for reading, MB", name, memory_of(session.process.pid, "VmRSS") / 1000)
        with self.session(name, repository, exclusive=True) as session:
            started = time.perf_counter()
            before = cpu_of(session.process.pid)
            session.ask("put", id=identity(f"of run {number}"), data=b"small")
            put = time.perf_counter()
            session.ask("commit", **streams.COMMIT)
            ended = time.perf_counter()
            stored[name] += 1
            self.note(f"{label}`put` of one small object and commit, warm, s", name, ended - started, Goal(times=1))
            self.note(f"{label}of that the commit, s", name, ended - put, Goal(times=1))
            self.note(f"{label}`put` of one small object and commit, warm, CPU s", name, cpu_of(session.process.pid) - before)
            self.note(f"{label}peak memory with that commit, MB", name, memory_of(session.process.pid, "VmHWM") / 1000)
        with self.session(name, repository) as session:
            session.expect(stored[name], "__len__")

    def limits_of_objects(self, label, directory, repository):
        index = [path for path in measure.files_of(repository) if re.search(r"/(index|hints|integrity)\.\d+$", path)]
        for state in ("cold", "warm"):
            set_cache(repository, state)
            started = time.perf_counter()
            measure.read_all(index)
            for method in ("get", "__len__") if state == "warm" else ("get",):
                self.note(f"{label}start to the first answer to `{method}`, {state}, s", "limit", time.perf_counter() - started)
        seconds = write_synced(directory / "limit", sum(os.path.getsize(path) for path in index))
        self.note(f"{label}`put` of one small object and commit, warm, s", "limit", seconds)
        self.note(f"{label}of that the commit, s", "limit", seconds)

    def note_rest(self, row, name, session, before=0):
        """The processor time since `before`, which other load disturbs less, and the peak memory, for a row of seconds."""
        self.note(row.replace(", s", ", CPU s"), name, cpu_of(session.process.pid) - before)
        self.note(row.replace(", s", ", peak memory, MB"), name, memory_of(session.process.pid, "VmHWM") / 1000)

    def rebuild(self, run):
        if run > 0:
            return
        size = self.options.gigabytes
        with Large(self, "borg1-rebuild", megabytes=size * 1100) as large:
            if not large:
                return
            repository, count = large.make("repository", "--gigabytes", size)
            for number in range(self.options.runs):
                for state in self.states(size):
                    for name in self.bench.order(number, "limit"):
                        rows = f"{size:g} GB, {count:,} objects: index rebuilt, {state}, s", f"{size:g} GB, {count:,} objects: `check`, {state}, s"
                        set_cache(repository, state)
                        started = time.perf_counter()
                        if name == "limit":
                            measure.read_all(measure.files_of(repository / "data"))
                            for row in rows:
                                self.note(row, name, time.perf_counter() - started)
                            continue
                        self.rebuild_index(rows[0], name, repository, state, count)
                        self.check(rows[1], name, repository, state)
                        if number == 0 and name == "ours":
                            self.prove(repository, count)

    def rebuild_index(self, row, name, repository, state, count):
        for path in repository.iterdir():
            if path.name.partition(".")[0] in ("index", "hints", "integrity"):
                path.unlink()
        set_cache(repository, state)
        started = time.perf_counter()
        with self.session(name, repository) as session:
            session.ask("get", id=identity(0))
            self.note(row, name, time.perf_counter() - started, Goal(times=2))
            self.note_rest(row, name, session)
            session.expect(count, "__len__")

    def check(self, row, name, repository, state):
        set_cache(repository, state)
        with self.session(name, repository, exclusive=True) as session:
            before, started = cpu_of(session.process.pid), time.perf_counter()
            session.expect(True, "check", repair=False, save_space=False, max_duration=0)
            self.note(row, name, time.perf_counter() - started, Goal(times=2))
            self.note_rest(row, name, session, before)

    def compact(self, run):
        if run > 0:
            return
        size = self.options.gigabytes / 2
        with Large(self, "borg1-compact", megabytes=size * 1700) as large:
            if not large:
                return
            for number in range(self.options.runs):
                for state in self.states(size):
                    for name in self.bench.order(number, "limit"):
                        repository, count = large.make("repository", "--gigabytes", size)
                        row = f"{size:g} GB, {count:,} objects, every second deleted: commit with compaction, {state}, s"
                        if name == "limit":
                            set_cache(repository, state)
                            started = time.perf_counter()
                            total = measure.read_all(measure.files_of(repository / "data"))
                            write_synced(large.path / "limit", total // 2)
                            self.note(row, name, time.perf_counter() - started)
                        else:
                            self.delete_half(row, name, repository, state, count)
                            if number == 0 and name == "ours":
                                self.prove(repository, (count + 1) // 2)
                        shutil.rmtree(repository)

    def delete_half(self, row, name, repository, state, count):
        with self.session(name, repository, exclusive=True) as session:
            started = time.perf_counter()
            # The odd ones: half of the small and half of the large objects.
            session.delete(identity(number) for number in range(1, count, 2))
            self.note(row.replace("commit with compaction", "the deletes"), name, time.perf_counter() - started)
            set_cache(repository, state)
            before, started = cpu_of(session.process.pid), time.perf_counter()
            session.ask("commit", **{**streams.COMMIT, "compact": True})
            self.note(row, name, time.perf_counter() - started, Goal(times=1.5))
            self.note_rest(row, name, session, before)
        left, whole = bytes_in(repository / "data"), self.options.gigabytes / 2 * 1e9
        if not 0.4 * whole < left < 0.6 * whole:
            bed.die(f"{name} left {left / 1e9:.1f} of {whole / 1e9:.1f} GB after compaction")

    def states(self, gigabytes):
        available = int(next(line for line in open("/proc/meminfo") if line.startswith("MemAvailable")).split()[1]) * 1024
        return ["cold", "warm"] if gigabytes * 1e9 < available / 2 and not self.bench.quick else ["cold"]

    def prove(self, repository, count):
        """That the original finds nothing wrong with what is there."""
        with self.session("original", repository, exclusive=True) as session:
            session.expect(True, "check", repair=False, save_space=False, max_duration=0)
            session.expect(count, "__len__")


class Session(bed.Server):
    """A connection as a Borg 1.4 client makes it, with the repository opened if one is given; what fails, ends the program."""

    def __init__(self, command, place, environment, repository, exclusive):
        super().__init__(command, cwd=place.path, environment=environment)
        self.command = command
        self._pack = bed.load_msgpack().Packer(use_bin_type=False).pack
        self.number = 1  # that of the negotiation
        try:
            self.send_raw(self._pack(streams.negotiation_borg1()))
            answer = self.read()
        except (bed.Hangup, OSError) as error:
            answer = error
        if not (isinstance(answer, list) and answer[:3] == [1, 1, None]):
            self.kill()
            bed.die(f"{command} does not speak Borg 1: {answer!r} {self.errors()[-500:]}")
        if repository:
            self.ask("open", **streams.borg1_open(os.fsencode(repository), creates=False, exclusive=exclusive))

    def ask(self, method, **arguments):
        try:
            answer = self.call(method, _timeout=PATIENCE, **arguments)
        except bed.Hangup as error:
            answer = error
        if isinstance(answer, bed.Hangup) or answer.failed:
            self.kill()
            bed.die(f"{self.command}: {method}: {answer!r}\n{self.errors()[-2000:]}")
        return answer.value

    def expect(self, value, method, made=lambda answer: answer, **arguments):
        answer = made(self.ask(method, **arguments))
        if answer != value:
            self.kill()
            bed.die(f"{self.command}: {method} gave {answer!r} instead of {value!r}\n{self.errors()[-2000:]}")

    def delete(self, keys):
        keys = list(keys)
        for start in range(0, len(keys), BATCH):
            batch = keys[start:start + BATCH]
            for key in batch:
                self.send("delete", {"id": key})
            for _ in batch:
                message = self.read(PATIENCE)
                if "exception_class" in message:
                    bed.die(f"{self.command}: delete: {message['exception_class']}")

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if kind is not None:
            self.kill()
        elif (code := self.end(60)) != 0:
            bed.die(f"{self.command} ended with {code}\n{self.errors()[-2000:]}")
        self.stderr.close()


class Large:
    """A directory on the disk for large repositories, empty afterwards; nothing at all where there is no room for `megabytes`."""

    def __init__(self, borg1, section, megabytes):
        self.borg1, self.section, self.megabytes = borg1, section, megabytes

    def __enter__(self):
        options = self.borg1.options
        self.place = bed.Place("large", options.keep, inside=options.disk)
        self.path = self.place.path
        free = shutil.disk_usage(self.path).free / 1e6
        if free < 1.1 * self.megabytes + 1000:
            self.borg1.bench.skip(self.section, f"needs {self.megabytes / 1000:.1f} GB, {free / 1000:.1f} are free at {self.path.parent}")
            return None
        return self

    def __exit__(self, kind, error, trace):
        self.place.close()

    def make(self, name, option, size):
        """A new repository, and how many objects it has."""
        path = self.path / name
        print(f"writing a repository, {option} {size} …", file=sys.stderr, flush=True)
        made = subprocess.run([self.borg1.python, bed.ROOT / "conformance/segments.py", option, str(size), path], env=self.borg1.environment,
                              stdout=subprocess.PIPE, text=True, check=True)
        # What lies below a virtual machine may cache, too, and cannot be told not to: whoever reads first would pay for all.
        measure.make_cold(path)
        measure.read_all(measure.files_of(path))
        return path, int(made.stdout)

    def copy(self, repository, name):
        copied = shutil.copytree(repository, self.path / name)
        measure.make_cold(copied)  # what is still to be written would slow down who is measured first
        return copied


def set_cache(repository, state):
    """Syncs the repository, so that nobody pays for what others wrote, and takes it out of the page cache or into it."""
    measure.make_cold(repository)
    if state == "warm":
        measure.read_all(measure.files_of(repository))


def write_synced(path, size):
    """Seconds that it takes to write a file of so many bytes, with fdatasync; it is gone afterwards."""
    block = os.urandom(MIB)
    started = time.perf_counter()
    with open(path, "wb", buffering=0) as out:
        for start in range(0, size, MIB):
            out.write(block[:size - start])
        os.fdatasync(out.fileno())
    seconds = time.perf_counter() - started
    path.unlink()
    return seconds


def bytes_in(directory):
    return sum(os.path.getsize(path) for path in measure.files_of(directory))
