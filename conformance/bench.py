#!/usr/bin/env python3
"""Measures our server against the original in one run, with the same request streams, and against what the machine can do.

Traps that this avoids: every repository is put on a freshly made ext4 on a loop device, because ext4 is slow for minutes
where many files were just removed; the two servers and the limit (`cp`, `cat`) alternate, and medians are taken. Our server
syncs, as always; the original never does. Without root, or a loop device, repositories lie in a new directory instead.

Prints tables in Markdown, for Borg 2, Borg 1 and the REST dialect: for each figure both servers, their ratio, the limit where there
is one, the goal and whether it is reached ("nearly": missed by less than a fifth; --quick, of a tenth of the objects, does not
judge). CPU seconds are the server's own, peak memory is VmHWM, private memory what smaps_rollup calls so, sampled.

--only takes words of sections: start, small, big, index, socket, client of Borg 2, and of Borg 1 (see bench_borg1.py)
borg1-start, borg1-small, borg1-big, borg1-objects (--objects), borg1-rebuild, borg1-compact (--gigabytes). The last three
write as much to the disk as they are told, and remove it again. Of the REST dialect (see bench_rest.py) rest-start, rest-small,
rest-big, rest-defrag, rest-client over standard streams, and net-small, net-big, net-many over the network, where nginx is the
limit. A section that cannot run is SKIPPED, with its reason.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
import bed
import bench_borg1
import bench_rest
import measure
import streams
from measure import MIB, Figures, Goal, memory_of


class Bench:
    def __init__(self, options):
        self.options = options
        self.quick = options.quick
        small, big, self.index_size = (5000, 200, 32) if self.quick else (50000, 2000, 512)
        self.sizes = {"small": (small, 1024), "big": (big, MIB)}
        self.image = 1024 if self.quick else 4096  # MiB
        memory = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in open("/proc/meminfo")}
        in_memory = memory["MemAvailable"] > 3 * self.image and os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free // MIB > 2 * self.image
        self.place = bed.Place("bench", options.keep, inside="/dev/shm" if in_memory else None)
        self.mounts = os.geteuid() == 0 and subprocess.run(["losetup", "-f"], capture_output=True).returncode == 0
        self.where = ("on a fresh ext4" if self.mounts else "in a new directory (no root or no loop device: put figures are worth little)") + \
            (", in memory" if in_memory else ", on disk")
        self.servers = {"original": options.original, "ours": options.server}
        self.figures, self.skipped = Figures(self.servers, judged=not self.quick), []
        self.note = self.figures.note

    def skip(self, section, reason):
        self.skipped.append(f"{section}: {reason}")
        print(f"SKIPPED: {section}: {reason}", file=sys.stderr, flush=True)

    def disk(self):
        """An empty directory for one repository, and what gives it up."""
        if self.mounts:
            disk = bed.FileSystem(self.place, "disk", megabytes=self.image)
            return disk.path, lambda: (disk.unmount(), disk.image.unlink())
        path = self.place.directory("disk")
        return path, lambda: shutil.rmtree(path)

    def stream(self, kind, phase):
        path, (count, size) = self.place / f"{kind}.{phase}", self.sizes[kind]
        if not path.exists():
            with open(path, "wb") as out:
                streams.write(out, phase, count, size, "repository")
        return path

    def run(self, name, stream, directory, *, marks=(), through_pipe=False):
        """Feeds a server one stream from a file; what it took, and when the answers with the numbers in `marks` came."""
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.place.path), "LANG": "C.UTF-8", "BORG_BASE_DIR": str(self.place / "home")}
        return measure.feed([self.servers[name], "serve"], stream, directory, environment, marks=marks,
                            pipe="as sshd makes it" if through_pipe else None)

    # --- sections ---------------------------------------------------------------------------------------------------------

    def start(self, _):
        for _ in range(5 if self.quick else 10):
            for name, command in self.servers.items():
                started = time.perf_counter()
                server = bed.Server(command, cwd=self.place.path, stderr=subprocess.DEVNULL)
                server.call("negotiate", client_data={"client_version": [2, 0, 0, -3, 18]})
                self.note("start to first answer, ms", name, (time.perf_counter() - started) * 1000, Goal(most=6))
                self.note("resident when idle, MB", name, memory_of(server.process.pid, "VmRSS") / 1000, Goal(most=12))
                server.end()

    def small(self, run):
        count, size = self.sizes["small"]
        label, cpu = f"{count:,} × 1 KiB", {}
        for name in self.order(run):
            directory, end = self.disk()
            put = self.run(name, self.stream("small", "put"), directory, marks=(count + 2, count + 3))
            self.prove(name, directory, count)
            self.note(f"put {label}, barrier included, s", name, put.seconds, Goal(times=4))
            self.note(f"put {label}, CPU s", name, put.cpu)
            self.note(f"put {label}, user CPU s (limit: 1/20 of the original's CPU)", name, put.user, Goal(limit=1))
            if name == "original":
                self.note(f"put {label}, user CPU s (limit: 1/20 of the original's CPU)", "limit", put.cpu / 20)
            else:
                self.note("wait at the barrier, µs per object", name, (put.marks[count + 3] - put.marks[count + 2]) / count * 1e6, Goal(most=10))
            get = self.run(name, self.stream("small", "get"), directory)
            self.note(f"get {label}, s", name, get.seconds, Goal(times=10))
            self.note(f"get {label}, CPU s", name, get.cpu)
            if run == 0:
                self.verify(name, directory, "small")
            end()

    def big(self, run):
        count, size = self.sizes["big"]
        label = f"{count:,} × 1 MiB"
        rows = [f"put {label}, to the last answer before `close`, s (limit: cp)", f"put {label}, with `close`, s (limit: cp, sync -f)",
                f"get {label} through a pipe, s (limit: cat, pipe of 1 MiB)"]
        for name in self.order(run, "limit"):
            directory, end = self.disk()
            if name == "limit":
                answered, closed, read = self.copy(directory, count)
            else:
                put = self.run(name, self.stream("big", "put"), directory, marks=(count + 2, count + 3))
                self.prove(name, directory, count)
                answered, closed = (put.marks[number] - put.started for number in (count + 2, count + 3))
                get = self.run(name, self.stream("big", "get"), directory, through_pipe=True)
                read = get.seconds
                self.note(f"put {label}, CPU s", name, put.cpu)
                self.note(f"get {label}, CPU s", name, get.cpu)
                self.note(f"peak memory, put {label}, MB", name, put.peak, Goal(most=24))
                self.note(f"peak memory, get {label}, MB", name, get.peak, Goal(most=24))
                if run == 0:
                    self.verify(name, directory, "big")
            for row, value, goal in zip(rows, (answered, closed, read), (Goal(times=2, limit=1.3), Goal(limit=1.3), Goal(times=4, limit=1.2))):
                self.note(row, name, value, goal)
            end()

    def copy(self, directory, count):
        """What the machine can do: `cp` of as many files, with `sync -f`, and `cat` of them through a pipe."""
        source = self.place.directory("source")
        if not any(source.iterdir()):
            block = os.urandom(MIB)
            for number in range(count):
                (source / str(number)).write_bytes(block)
        started = time.perf_counter()
        subprocess.run(["cp", "-r", source, directory / "copy"], check=True)
        copied = time.perf_counter() - started
        subprocess.run(["sync", "-f", directory], check=True)
        synced = time.perf_counter() - started
        files = [directory / "copy" / str(number) for number in range(count)]
        started = time.perf_counter()
        answers, out = measure.large_pipe()
        reader = subprocess.Popen(["cat"], stdin=answers, stdout=subprocess.DEVNULL)
        writer = subprocess.Popen(["cat", *files], stdout=out)
        os.close(answers), os.close(out)
        writer.wait(), reader.wait()
        return copied, synced, time.perf_counter() - started

    def chunk_index(self, run):
        if run > 0:
            return
        path = self.place / "index.stream"
        with open(path, "wb") as out:
            streams.write_index(out, self.index_size * MIB, "repository")
        for name in self.servers:
            directory, end = self.disk()
            taken = self.run(name, path, directory)
            self.note(f"peak memory, one chunk index of {self.index_size} MiB stored and loaded, MB", name, taken.peak, Goal(most=24))
            self.note(f"one chunk index of {self.index_size} MiB stored and loaded, s", name, taken.seconds)
            end()
        path.unlink()

    def socket(self, run):
        """One client, then 32 at once, each with a repository of its own: all of them are to come through, evenly."""
        count, size, clients = (100 if self.quick else 500), 16384, 32
        directory, end = self.disk()
        path = directory / "socket"
        environment = {"PATH": os.environ["PATH"], "HOME": str(directory)}
        server = subprocess.Popen([self.servers["ours"], "serve", f"--socket={path}"], cwd=directory, env=environment,
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            bed.wait_until(lambda: path.exists() or server.poll() is not None, 5)
            if server.poll() is not None or not path.exists():
                if run == 0:
                    self.skip("socket", "this server does not serve on a socket")
                return
            one = self.clients_at_once(path, directory, [0], count, size)
            many = self.clients_at_once(path, directory, range(1, clients + 1), count, size)
            volume = count * size / MIB
            self.note("socket: one client, MiB/s", "ours", volume / max(one))
            self.note(f"socket: {clients} clients together, MiB/s", "ours", clients * volume / max(many))
            self.note(f"socket: slowest / fastest of {clients} clients", "ours", max(many) / min(many))
        finally:
            server.terminate()
            server.wait(30)
            end()

    def clients_at_once(self, path, directory, numbers, count, size):
        seconds, last = [], bed.load_msgpack().packb({"i": count + 3, "r": None})  # the answer to `close`

        def client(number, stream):
            with socket.socket(socket.AF_UNIX) as connection, open(stream, "rb") as source:
                started = time.perf_counter()
                connection.connect(str(path))
                sender = threading.Thread(target=lambda: (connection.sendfile(source), connection.shutdown(socket.SHUT_WR)))
                sender.start()
                tail = b""
                while last not in tail and (data := connection.recv(65536)):
                    tail = tail[-64:] + data
                if last in tail:
                    seconds.append(time.perf_counter() - started)
                sender.join()

        threads = []
        for number in numbers:
            stream = self.place / f"client-{number}"
            with open(stream, "wb") as out:
                streams.write(out, "put", count, size, str(directory / f"repository-{number}"))
            threads.append(threading.Thread(target=client, args=(number, stream)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if len(seconds) != len(threads):
            bed.die("not all clients on the socket were served")
        return seconds

    def client(self, run):
        """A stock client from end to end, over a private sshd."""
        missing = [program for program in ("ssh", "ssh-keygen") if not shutil.which(program)]
        missing += [] if shutil.which("sshd") or os.path.exists("/usr/sbin/sshd") else ["sshd"]
        if missing:
            if run == 0:
                self.skip("client", f"{', '.join(missing)} is missing")
            return
        if not hasattr(self, "sshd"):
            self.sshd = bed.SSHD(self.place, {name: f"{command} serve" for name, command in self.servers.items()})
            self.tree = bed.make_tree(self.place / "tree", 1, megabytes=20 if self.quick else 200, small_files=500 if self.quick else 5000)
        for name in self.order(run):
            directory, end = self.disk()
            client = bed.Client(bed.ORIGINAL_VERSION, self.place, home=f"home-{name}-{run}", rsh=self.sshd.rsh(name),
                                repository=self.sshd.url(directory / "repository"))
            target = directory / "target"
            target.mkdir()
            for command, where in ((["repo-create", "-e", "none"], None), (["create", "first", "."], self.tree), (["list", "first"], None),
                                   (["extract", "first"], target), (["check"], None)):
                done = client.run(*command, cwd=where)
                if done.code != 0:
                    bed.die(f"{name}: {done}")
                self.note(f"client's `{command[0]}` over ssh, s", name, done.seconds)
            end()

    # --- proofs -----------------------------------------------------------------------------------------------------------

    def order(self, run, *more):
        return sorted([*self.servers, *more], reverse=bool(run % 2))

    def prove(self, name, directory, count):
        stored = sum(len(names) for _, _, names in os.walk(directory / "repository/data"))
        if stored != count:
            bed.die(f"{name} stored {stored} of {count} objects")

    def verify(self, name, directory, kind):
        """That the answers that were thrown away while measuring were the objects."""
        count, size = self.sizes[kind]
        with open(self.stream(kind, "get"), "rb") as source:
            server = subprocess.Popen([self.servers[name], "serve"], cwd=directory, stdin=source, stdout=subprocess.PIPE,
                                      env={"PATH": os.environ["PATH"], "HOME": str(self.place.path), "BORG_BASE_DIR": str(self.place / "home")})
            unpacker = bed.load_msgpack().Unpacker(server.stdout, raw=False, max_buffer_size=0, read_size=MIB)
            good = sum(1 for message in unpacker if isinstance(message.get("r"), bytes) and len(message["r"]) == size)
            server.wait(60)
        if good != count:
            bed.die(f"{name} delivered {good} of {count} objects")

    # --- the table --------------------------------------------------------------------------------------------------------

    def tables(self, all_figures):
        how = "A quick run, which shows that it works and proves no figure" if self.quick else f"Medians of {self.options.runs} runs, alternating"
        lines = [f"{bed.describe_machine()}. Repositories {self.where}. {how}; load {os.getloadavg()[0]:.1f}; {time.strftime('%Y-%m-%d')}."]
        lines += [figures.table() for figures in all_figures if figures.goals]
        return "\n\n".join(lines + [f"SKIPPED: {'; '.join(self.skipped)}." for _ in [0] if self.skipped])


def main():
    parser = bed.parser(__doc__, limit=7200)
    parser.add_argument("--runs", type=int, help="(default: 3, quick: 1)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the objects: shows that it works, proves little")
    parser.add_argument("--heavy", action="store_true", help="the sizes of the goals for Borg 1: 10 million objects, 20 GB; takes an hour and 25 GB of disk")
    parser.add_argument("--objects", type=int, help="of the largest Borg 1 repository (default: 1,000,000, quick: 50,000)")
    parser.add_argument("--gigabytes", type=float, help="of the Borg 1 repository that is checked; half of it are compacted (default: 2, quick: 0.1)")
    parser.add_argument("--disk", metavar="DIRECTORY", help="where these large repositories go (default: that of temporary files)")
    parser.add_argument("--original-borg1", metavar="PATH", help=f"(default: the {bench_borg1.ORIGINAL_VERSION} client)")
    parser.add_argument("--original-rest", metavar="PATH", help=f"(default: the {bench_rest.ORIGINAL_VERSION} client)")
    parser.add_argument("--only", metavar="SECTION", help="only these sections, separated by commas")
    parser.add_argument("--output", metavar="FILE", help="where to write the table, too")
    options = bed.parse(parser)
    options.runs = options.runs or (1 if options.quick else 3)
    objects, gigabytes = (10_000_000, 20) if options.heavy else (50_000, 0.1) if options.quick else (1_000_000, 2)
    options.objects, options.gigabytes = options.objects or objects, options.gigabytes or gigabytes
    bench = Bench(options)
    borg1, rest = bench_borg1.Borg1(bench), bench_rest.REST(bench)
    sections = {"start": bench.start, "small": bench.small, "big": bench.big, "index": bench.chunk_index, "socket": bench.socket, "client": bench.client,
                **borg1.sections, **rest.sections}
    wanted = options.only.split(",") if options.only else list(sections)
    for run in range(options.runs):
        for name in wanted:
            print(f"run {run + 1} of {options.runs}, {name} …", file=sys.stderr, flush=True)
            sections[name](run)
    table = bench.tables([bench.figures, borg1.figures, rest.figures])
    print(table)
    if options.output:
        with open(options.output, "w") as out:
            out.write(table + "\n")
    bench.place.close()
    skipped = len({line.partition(":")[0] for line in bench.skipped})
    print(f"\n{len(wanted) - skipped} passed, 0 failed, {skipped} skipped")  # sections, for scripts/test
    return 0


if __name__ == "__main__":
    sys.exit(main())
