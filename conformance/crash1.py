#!/usr/bin/env python3
"""As crash.py, for Borg 1.x: live stock 1.4.5 clients, while their server, they themselves, or the disk below fail.

Proved, for each way to fail: the client is told; no lock and no temporary file stays behind (within a second, where the server
lives to see it; else after the next session); what was backed up before is extracted identically, the same data can be backed
up again, and the original's own `check --verify-data`, without any server, finds no fault, also with an index made anew from
the segments. A full disk is full while objects are written, and at many sizes around what a commit or a compaction needs.
What only reads works on a read-only disk with --bypass-lock.

An original as server under test is expected to fail where it is told to end while it works: it goes on.

Full and read-only disks need root and a loop device, failing system calls need strace with permission to trace.
"""

import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import bed
import borg1
from crash import mounts_missing

scenario = bed.Scenarios()
PROMPT = 1.0  # seconds within which a hangup or signal has to be dealt with
VERSION = "1.4.5"


class Bed:
    """A repository, a client, our server, and the original upon the directory."""

    def __init__(self, name, options, report, inside=None):
        self.name, self.options, self.report = name, options, report
        self.rng = random.Random(f"{options.seed} {name}")
        self.place = bed.Place("crash1", options.keep)
        self.root = inside(self.place) if inside else self.place.path
        self.repository = self.root / "repository"
        self.program = borg1.under_test(self.place, options)
        self.ours = borg1.Pipes(self.place, "ours", self.program)
        self.client = borg1.Client(borg1.originals(self.place, [VERSION])[0], self.place, BORG_PASSPHRASE="crash")
        self.source = self.place.directory("source")

    def begin(self, files=3, size=300_000, **settings):
        """A repository with an archive `first`, what it holds."""
        self.run("init", "-e", "repokey-blake2", "@")
        if settings:
            borg1.configure(self.repository, **settings)
        self.fresh_data("first", files, size)
        self.run("create", "@::first", "first")
        return bed.fingerprint(self.source)

    def run(self, *words, ok=True, rsh=None, alone=False, cwd=None):
        location = str(self.repository) if alone else self.ours.url(self.repository)
        words = [location + word[1:] if str(word).startswith("@") else word for word in words]
        outcome = self.client.run(*words, rsh=rsh or self.ours.rsh, cwd=cwd or self.source)
        if ok and outcome.code != 0:
            raise bed.Failed(str(outcome))
        return outcome

    def start(self, *words):
        """Starts a client's command; its process, its server's pid, and the file with its output."""
        before, output = len(self.ours.pids()), open(self.place / "output", "w+b")
        words = [self.ours.url(self.repository) + word[1:] if word.startswith("@") else word for word in words]
        process = self.client.start(*words, rsh=self.ours.rsh, cwd=self.source, output=output)
        if bed.wait_until(lambda: len(self.ours.pids()) > before, 20) is None:
            raise bed.Failed("no server was started")
        return process, self.ours.pids()[-1], output

    def told(self, process, output):
        code = process.wait(60)
        output.seek(0)
        text = output.read().decode(errors="replace")
        output.close()
        self.check("the client is told", code != 0, text[-800:])
        return text

    def size(self):
        total = 0
        for path in borg1.segments(self.repository):
            try:
                total += path.stat().st_size
            except FileNotFoundError:
                pass  # compaction was faster
        return total

    def wait_for_growth(self, process, size):
        before = self.size()
        bed.wait_until(lambda: process.poll() is not None or self.size() >= before + size, 60, 0.001)
        if process.poll() is not None:
            raise bed.Failed("the command ended before it could be disturbed")

    def check(self, what, condition, detail="", note=""):
        return self.report.check(f"{self.name}: {what}", condition, detail, note)

    def fresh_data(self, name, files=1, size=1 << 20):
        folder = self.source / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(files):
            (folder / f"{number}").write_bytes(self.rng.randbytes(size))
        return folder

    def whole(self, *archives):
        """The original alone finds no fault, also without the index that it was left, and the archives hold what they did."""
        outcome = self.run("check", "--verify-data", "@", alone=True, ok=False)
        self.check("the original's check --verify-data finds no fault", outcome.code == 0, outcome)
        borg1.damage(self.repository, self.rng, "index", "remove")
        for archive, expected in archives:
            target = self.place.directory("restored")
            outcome = self.run("extract", f"@::{archive}", cwd=target, alone=True, ok=False)
            found = bed.fingerprint(target)
            shutil.rmtree(target)
            self.check(f"archive {archive} is extracted identically", outcome.code == 0 and found == expected,
                       f"{outcome}\n{bed.difference(expected, found)}")

    def left(self):
        return borg1.leftovers(self.repository)

    def nothing_left(self, when="after the next session"):
        self.check(f"no lock and no temporary file {when}", not self.left(), self.left())

    def soon_nothing_left(self):
        took = bed.wait_until(lambda: not self.left(), PROMPT)
        self.check(f"within {PROMPT:.0f} s no lock and no temporary file is left", took is not None, self.left(), f"{(took or 0) * 1000:.0f} ms")

    def again(self, first):
        """The same data once more, and everything is well."""
        self.run("create", "@::again", "first", "second")
        self.nothing_left()
        self.whole(("first", first), ("again", bed.fingerprint(self.source)))

    def close(self):
        for pid in self.ours.alive():
            os.kill(pid, signal.SIGKILL)
        self.place.close()


@scenario
def killed_while_creating(options, report):
    """kill -9 of the server, and of the client."""
    for victim in ("server", "client"):
        with bed.closing(Bed(f"{victim} killed while creating", options, report)) as b:
            first = b.begin()
            b.fresh_data("second", 30)
            process, server, output = b.start("create", "--checkpoint-interval", "1", "@::second", "second")
            b.wait_for_growth(process, b.rng.randrange(1, 20) << 20)
            if victim == "server":
                os.kill(server, signal.SIGKILL)
                b.told(process, output)
            else:
                os.kill(process.pid, signal.SIGKILL)  # alone: the server is in its process group
                b.check("the server ends", bed.wait_until(lambda: not bed.is_alive(server), PROMPT) is not None)
                b.soon_nothing_left()
                process.wait(60)
            b.again(first)


@scenario
def server_killed_while_compacting(options, report):
    for number in range(options.rounds):
        with bed.closing(Bed(f"server killed while compacting, round {number + 1}", options, report)) as b:
            first = b.begin(max_segment_size=1_000_000)
            b.fresh_data("second", 25, 500_000)
            b.run("create", "@::second", "first", "second")
            kept = bed.fingerprint(b.source)
            b.fresh_data("deleted", 25, 500_000)
            b.run("create", "@::deleted", "second", "deleted")
            b.run("delete", "@::first")
            b.run("delete", "@::deleted")
            before = b.size()
            process, server, output = b.start("compact", "--threshold", "0", "@")
            bed.wait_until(lambda: process.poll() is not None or b.size() != before, 60, 0.0005)
            time.sleep(b.rng.random() * 0.02)
            ended = process.poll() is not None or not bed.is_alive(server)
            if not ended:
                os.kill(server, signal.SIGKILL)
            code = process.wait(60)
            output.close()
            b.check("the client is told", ended or code != 0, note="it had just ended" if ended else f"{(before - b.size()) >> 10} KiB were gone")
            b.whole(("second", kept))
            # The deleted data again: only what is really there may be taken for stored.
            b.run("create", "@::again", "second", "deleted")
            b.run("compact", "@")
            b.nothing_left()
            again = {path: entry for path, entry in bed.fingerprint(b.source).items() if not path.startswith("first")}
            b.whole(("second", kept), ("again", again))


@scenario
def server_told_to_end(options, report):
    for number in (signal.SIGTERM, signal.SIGHUP):
        with bed.closing(Bed(f"server gets {number.name} while creating", options, report)) as b:
            first = b.begin()
            b.fresh_data("second", 30)
            process, server, output = b.start("create", "@::second", "second")
            b.wait_for_growth(process, b.rng.randrange(1, 15) << 20)
            os.kill(server, number)
            ended = bed.wait_until(lambda: not bed.is_alive(server), PROMPT)
            b.check(f"it ends within {PROMPT:.0f} s", ended is not None, "it goes on", f"{(ended or 0) * 1000:.0f} ms")
            if ended is None:
                borg1.kill(process)
            b.told(process, output)
            b.soon_nothing_left()
            b.again(first)


# --- disks ---


def small_disk(place):
    return bed.FileSystem(place, "small", megabytes=64).path


def fill(root, leave):
    """Takes all space of a file system but `leave` bytes; the file that does."""
    ballast = root / "ballast"
    ballast.unlink(missing_ok=True)
    info = os.statvfs(root)
    with open(ballast, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(4096, info.f_bavail * info.f_frsize - leave))
    return ballast


SPACE = ("space", "ENOSPC")


@scenario
def disk_full(options, report):
    reason = mounts_missing()
    if reason:
        return report.skip("full disk", reason)
    with bed.closing(Bed("full disk", options, report, inside=small_disk)) as b:
        first = b.begin(max_segment_size=1_000_000)
        ballast = fill(b.root, 8 << 20)
        b.fresh_data("second", 20)
        outcome = b.run("create", "@::second", "second", ok=False)
        b.check("while objects are written: the client is told", outcome.code != 0 and any(word in outcome.output for word in SPACE), outcome)
        b.soon_nothing_left()
        outcome = b.run("list", "@", ok=False)
        b.check("the repository can be listed, or the client is told", outcome.code == 0 or any(word in outcome.output for word in SPACE), outcome)
        ballast.unlink()
        shutil.rmtree(b.source / "second")
        b.fresh_data("second", 2)
        b.again(first)


@scenario
def disk_nearly_full(options, report):
    """A commit, and a compaction, with more or less of what they need."""
    reason = mounts_missing()
    if reason:
        return report.skip("nearly full disk", reason)
    with bed.closing(Bed("nearly full disk", options, report, inside=small_disk)) as b:
        first = b.begin(max_segment_size=1_000_000)
        b.fresh_data("second", 1, 1000)
        second = {path: entry for path, entry in bed.fingerprint(b.source).items() if path.startswith("second")}
        acknowledged, results = [("first", first)], []
        for leave in (60_000, 130_000, 180_000, 240_000, 400_000, 30_000_000):
            ballast = fill(b.root, leave + b.rng.randrange(20_000))
            name = f"left-{leave}"
            outcome = b.run("create", f"@::{name}", "second", ok=False)
            results.append(f"{leave}: {outcome.code}")
            if outcome.code == 0:
                acknowledged.append((name, second))
            elif not any(word in outcome.output for word in SPACE):
                b.check(f"a commit with {leave} bytes left: the client is told why", False, outcome)
            ballast.unlink()
        b.check("a commit needs space", results[0] != "60000: 0" and results[-1].endswith(": 0"), results, ", ".join(results))
        b.fresh_data("third", 10)
        b.run("create", "@::third", "third")
        b.run("delete", "@::third")
        ballast = fill(b.root, 300_000)
        outcome = b.run("compact", "@", ok=False)
        told = outcome.code == 0 or any(word in outcome.output for word in SPACE)
        b.check("a compaction: it works, or the client is told", told, outcome, f"exit code {outcome.code}")
        ballast.unlink()
        b.run("compact", "@")
        b.nothing_left()
        b.whole(*acknowledged)


@scenario
def disk_read_only(options, report):
    reason = mounts_missing()
    if reason:
        return report.skip("read-only disk", reason)
    with bed.closing(Bed("read-only disk", options, report, inside=small_disk)) as b:
        first = b.begin()
        b.fresh_data("second", 1)
        subprocess.run(["mount", "-o", "remount,ro", b.root], check=True)
        outcome = b.run("create", "@::second", "second", ok=False)
        b.check("create: the client is told", outcome.code != 0 and "read-only" in outcome.output.lower(), outcome)
        outcome = b.run("list", "@", ok=False)
        b.check("list needs a lock, and says so", outcome.code != 0 and "lock" in outcome.output, outcome)
        outcome = b.run("--bypass-lock", "list", "@", ok=False)
        b.check("list --bypass-lock", outcome.code == 0 and "first" in outcome.output, outcome)
        target = b.place.directory("restored")
        outcome = b.run("--bypass-lock", "extract", "@::first", cwd=target, ok=False)
        b.check("extract --bypass-lock", outcome.code == 0 and bed.fingerprint(target) == first, outcome)
        subprocess.run(["mount", "-o", "remount,rw", b.root], check=True)
        b.nothing_left("afterwards")
        b.again(first)


# What strace makes fail, from when on; `-e inject` counts calls in each thread.
FAULTS = {
    "every sync fails": ("fsync,fdatasync,syncfs,sync_file_range", "error=EIO:when=1+"),
    "syncs fail after a while": ("fsync,fdatasync,syncfs,sync_file_range", "error=EIO:when=5+"),
    "every rename in a commit fails": ("rename,renameat,renameat2", "error=EIO:when=3+"),
    "unlink fails": ("unlink,unlinkat", "error=EIO:when=3+"),
}


@scenario
def system_calls_fail(options, report):
    strace = shutil.which("strace")
    if not strace or subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode:
        return report.skip("failing system calls", "strace is missing or may not trace")
    for name, (calls, how) in FAULTS.items():
        with bed.closing(Bed(name, options, report)) as b:
            first = b.begin()
            b.fresh_data("second", 3)
            log = b.place / "strace.log"
            tracing = [strace, "-qq", "-f", "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={calls}:{how}"]
            faulty = bed.Pipes(b.place, "faulty", b.program.path, wrapper=tracing)
            outcome = b.run("create", "@::second", "second", rsh=faulty.rsh, ok=False)
            bed.wait_until(lambda: not faulty.alive(), 20)
            injected = log.read_text().count("(INJECTED)")
            # A fault that hits nothing proves nothing.
            if b.check("calls were made to fail", injected > 0, f"none of {calls} at {how}", f"{injected} calls"):
                b.check("the client is told, or nothing was lost", outcome.code != 0 or "sync" not in name, outcome, f"exit code {outcome.code}")
            if outcome.code == 0:
                b.check("what was acknowledged is listed", "second" in b.run("list", "--short", "@", alone=True).output)
            b.again(first)


def main():
    parser = bed.parser(__doc__, limit=600)
    scenario.add_argument(parser)
    parser.add_argument("--rounds", type=int, default=2, help="of the scenarios with random moments (%(default)s)")
    options = bed.parse(parser)
    report = bed.Report()
    for play in scenario.chosen(options):
        play(options, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
