#!/usr/bin/env python3
"""Measures our server against the original in one run, with the same request streams and no client in between.

Traps that this avoids: every repository is put on a freshly made ext4 on a loop device, because ext4 is slow for minutes
where many files were just removed; each stream is fed from a file and, again, through a 64 KiB pipe as ssh would do it;
the two servers alternate, and medians are taken. Our server syncs, as always; the original never does. Prints a table in
Markdown. Peak memory is VmHWM, sampled until the server ends. Needs root, for the file system.
"""

import os
import shutil
import statistics
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
import bed
import streams


class Bench:
    def __init__(self, options):
        self.options = options
        memory = {line.split(":")[0]: int(line.split()[1]) // 1024 for line in open("/proc/meminfo")}
        small, big = (5000, 200) if options.quick else (50000, 2000)
        self.sizes = {"small": (small, 1024), "big": (big, 1 << 20)}
        self.image = 4096 if not options.quick else 1024  # MiB
        in_memory = memory["MemAvailable"] > 3 * self.image and os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free >> 20 > 2 * self.image
        self.place = bed.Place("bench", options.keep, inside="/dev/shm" if in_memory else None)
        self.where = "in memory (/dev/shm)" if in_memory else "on disk"
        self.servers = {"original": options.original, "ours": options.server}
        self.figures = {}  # (row, server): [numbers]

    def note(self, row, server, value):
        self.figures.setdefault((row, server), []).append(value)

    def start_up(self):
        for _ in range(5 if self.options.quick else 20):
            for name, command in self.servers.items():
                started = time.perf_counter()
                server = bed.Server(command, cwd=self.place.path, stderr=subprocess.DEVNULL)
                server.call("negotiate", client_data={"client_version": [2, 0, 0, -3, 18]})
                self.note("start to first answer, ms", name, (time.perf_counter() - started) * 1000)
                self.note("memory when idle, MB", name, memory_of(server.process.pid, "VmRSS") / 1000)
                server.end()

    def run(self, name, stream, directory, piped):
        """Feeds one stream; seconds from start to exit, and the peak memory in MB."""
        command = [self.servers[name], "serve"]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.place.path), "LANG": "C.UTF-8", "BORG_BASE_DIR": str(self.place / "home")}
        peak, helpers = [0], []
        with open(stream, "rb") as source, open(os.devnull, "wb") as nowhere:
            started = time.perf_counter()
            if piped:
                helpers.append(subprocess.Popen(["cat"], stdin=source, stdout=subprocess.PIPE))
            server = subprocess.Popen(command, cwd=directory, env=environment, stdin=helpers[0].stdout if piped else source,
                                      stdout=subprocess.PIPE if piped else nowhere)
            if piped:
                helpers[0].stdout.close()
                helpers.append(subprocess.Popen(["cat"], stdin=server.stdout, stdout=nowhere))
                server.stdout.close()
            watcher = threading.Thread(target=watch_peak, args=(server, peak), daemon=True)
            watcher.start()
            code = server.wait(600)
            for helper in helpers:
                helper.wait(60)
            seconds = time.perf_counter() - started
        if code != 0:
            bed.die(f"{name} ended with {code} on {stream.name}")
        return seconds, peak[0] / 1000

    def transfer(self, kind, run):
        count, size = self.sizes[kind]
        label = f"{count:,} x {size // 1024:,} KiB"
        put, get = self.place / f"{kind}.put", self.place / f"{kind}.get"
        for path, phase in ((put, "put"), (get, "get")):
            if not path.exists():
                with open(path, "wb") as out:
                    streams.write(out, phase, count, size, "repository")
        for piped in (False, True):
            how = "through pipes" if piped else "from a file"
            for name in sorted(self.servers, reverse=bool(run % 2)):
                disk = bed.FileSystem(self.place, "disk", megabytes=self.image)
                seconds, peak = self.run(name, put, disk.path, piped)
                self.note(f"put {label}, {how}, s", name, seconds)
                self.note(f"put {label}, {how}, peak MB", name, peak)
                stored = sum(len(names) for _, _, names in os.walk(disk.path / "repository/data"))
                if stored != count:
                    bed.die(f"{name} stored {stored} of {count} objects")
                seconds, peak = self.run(name, get, disk.path, piped)
                self.note(f"get {label}, {how}, s", name, seconds)
                self.note(f"get {label}, {how}, peak MB", name, peak)
                if run == 0 and not piped:
                    self.verify(name, get, disk.path, count, size)
                disk.unmount()
                disk.image.unlink()

    def verify(self, name, stream, directory, count, size):
        """That the answers that were thrown away while measuring were the objects."""
        msgpack, good = bed.load_msgpack(), 0
        with open(stream, "rb") as source:
            server = subprocess.Popen([self.servers[name], "serve"], cwd=directory, stdin=source, stdout=subprocess.PIPE,
                                      env={"PATH": os.environ["PATH"], "HOME": str(self.place.path), "BORG_BASE_DIR": str(self.place / "home")})
            unpacker = msgpack.Unpacker(server.stdout, raw=False, max_buffer_size=0, read_size=1 << 20)
            good = sum(1 for message in unpacker if isinstance(message.get("r"), bytes) and len(message["r"]) == size)
            server.wait(60)
        if good != count:
            bed.die(f"{name} delivered {good} of {count} objects")

    def table(self):
        rows = list(dict.fromkeys(row for row, _ in self.figures))
        versions = {name: version_of(command) for name, command in self.servers.items()}
        lines = [f"{bed.describe_machine()}. Repositories on a fresh ext4 {self.where}. Medians of {self.options.runs} runs, alternating; {time.strftime('%Y-%m-%d')}.", "",
                 f"| | original ({versions['original']}) | ours ({versions['ours']}) | original / ours |", "|---|---:|---:|---:|"]
        for row in rows:
            first, second = (statistics.median(self.figures[row, name]) for name in ("original", "ours"))
            lines.append(f"| {row} | {number(first)} | {number(second)} | {first / second:.1f} |")
        return "\n".join(lines)


def number(value):
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def version_of(command):
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=30)
    return (done.stdout or done.stderr).strip().splitlines()[0].partition(" (")[0] if done.stdout or done.stderr else "unknown version"


def memory_of(pid, what):
    """kB of VmRSS or VmHWM, 0 once the process has ended."""
    try:
        return int(next(line for line in open(f"/proc/{pid}/status") if line.startswith(what)).split()[1])
    except (OSError, StopIteration, ProcessLookupError):
        return 0


def watch_peak(process, peak):
    while process.returncode is None:
        value = memory_of(process.pid, "VmHWM")
        if value == 0 and peak[0]:
            return
        # Until exec the child is still this very program, whose memory must not count.
        peak[0] = max(peak[0], value) if not is_this_program(process.pid) else 0
        time.sleep(0.003)


def is_this_program(pid):
    try:
        return os.path.basename(sys.argv[0]).encode() in open(f"/proc/{pid}/cmdline", "rb").read()
    except OSError:
        return False


def main():
    parser = bed.parser(__doc__, limit=3600)
    parser.add_argument("--runs", type=int, help="(default: 3, quick: 1)")
    parser.add_argument("--quick", action="store_true", help="a tenth of the objects: shows that it works, proves little")
    parser.add_argument("--output", metavar="FILE", help="where to write the table, too")
    options = bed.parse(parser)
    options.runs = options.runs or (1 if options.quick else 3)
    bed.need_mounts()
    bench = Bench(options)
    bench.start_up()
    for run in range(options.runs):
        for kind in bench.sizes:
            print(f"run {run + 1} of {options.runs}, {kind} objects …", file=sys.stderr, flush=True)
            bench.transfer(kind, run)
    table = bench.table()
    print(table)
    if options.output:
        with open(options.output, "w") as out:
            out.write(table + "\n")
    bench.place.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
