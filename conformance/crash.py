#!/usr/bin/env python3
"""Live stock clients, while their server, they themselves, or the disk below fail.

Proved, for each way to fail, over several rounds with seeded random moments: the client is told; no lock and no
unfinished file stays behind (within a second, where the server lives to see it; else after the next session); and the
repository is whole: what was backed up before is extracted identically, a new backup of the same data succeeds, and
the original's `check --verify-data` finds no fault.

The original as server under test is expected to fail here: it leaves locks behind at hangups and signals, loses data
when it dies in the middle of `compact` (the cached chunk index keeps naming what was deleted), never syncs, and tells a
client of a failed sync nothing.

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

scenario = bed.Scenarios()
PROMPT = 1.0  # seconds within which a hangup or signal has to be dealt with


class Bed:
    """A repository, a client, our server and the original's, all on pipes."""

    def __init__(self, name, options, report, inside=None, version=bed.ORIGINAL_VERSION):
        self.name, self.options, self.report, self.version = name, options, report, version
        self.rng = random.Random(f"{options.seed} {name}")
        self.place = bed.Place("crash", options.keep)
        root = inside(self.place) if inside else self.place.path
        self.repository = root / "repository"
        self.ours = bed.Pipes(self.place, "ours", options.server, *bed.dialect(version))
        self.original = bed.Pipes(self.place, "original", options.original)
        self.client = bed.Client(version, self.place, repository=self.ours.url(self.repository, version), rsh=self.ours.rsh)
        self.source = self.place.directory("source")

    def run(self, *arguments, ok=True, rsh=None, **more):
        environment = {"BORG_RSH": rsh or self.ours.rsh, **more.pop("environment", {})}
        outcome = self.client.run(*arguments, cwd=more.pop("cwd", self.source), environment=environment, **more)
        if ok and outcome.code != 0:
            raise bed.Failed(str(outcome))
        return outcome

    def check(self, what, condition, detail="", note=""):
        return self.report.check(f"{self.name}: {what}", condition, detail, note)

    def fresh_data(self, name, files=1, size=1 << 20):
        """A folder with new random content; borg's chunker makes one object of a small file, one or two of a MiB."""
        folder = self.source / name
        folder.mkdir(parents=True, exist_ok=True)
        for number in range(files):
            (folder / f"{number}").write_bytes(self.rng.randbytes(size))
        return folder

    def files(self):
        """How many files the repository holds, staged ones included."""
        return sum(len(names) for _, _, names in os.walk(self.repository))

    def start_and_wait(self, *arguments, growth=3, rsh=None):
        """Starts a client and returns it as soon as the repository has grown (or shrunk) by some files."""
        before, started = self.files(), len(self.ours.pids())
        process = self.client.start(*arguments, cwd=self.source, environment={"BORG_RSH": rsh or self.ours.rsh})
        moved = (lambda: self.files() >= before + growth) if growth > 0 else (lambda: self.files() <= before + growth)
        bed.wait_until(lambda: process.poll() is not None or moved(), 60, 0.002)
        if process.poll() is not None:
            raise bed.Failed(f"{arguments[0]} ended before it could be disturbed: {process.communicate()[0].decode(errors='replace')[-500:]}")
        pids = self.ours.pids()[started:]
        return process, pids[-1] if pids else None

    def whole(self, *archives):
        """The original finds no fault, and the archives hold what they did."""
        outcome = self.run("check", "--verify-data", "-v", rsh=self.original.rsh, ok=False)
        self.check("the original's check --verify-data finds no fault", outcome.code == 0 and "0 errors" in outcome.output, outcome)
        for archive, expected in archives:
            target = self.place.directory("restored")
            outcome = self.run("extract", archive, cwd=target, rsh=self.original.rsh, ok=False)
            found = bed.fingerprint(target)
            shutil.rmtree(target)
            self.check(f"archive {archive} is extracted identically", outcome.code == 0 and found == expected,
                       f"{outcome}\n{bed.difference(expected, found)}")

    def nothing_left(self, when):
        self.check(f"no lock {when}", not bed.lock_files(self.repository), bed.lock_files(self.repository))
        self.check(f"no unfinished file {when}", not bed.staged_files(self.repository), bed.staged_files(self.repository)[:5])

    def soon_nothing_left(self, limit=PROMPT):
        took = bed.wait_until(lambda: not bed.lock_files(self.repository) and not bed.staged_files(self.repository), limit)
        self.check(f"within {limit:.0f} s no lock and no unfinished file is left", took is not None,
                   f"locks {bed.lock_files(self.repository)}, unfinished {bed.staged_files(self.repository)[:5]}", f"{(took or 0) * 1000:.0f} ms")

    def close(self):
        for pid in self.ours.alive() + self.original.alive():
            os.kill(pid, signal.SIGKILL)
        self.place.close()


@scenario
def server_killed_while_compacting(options, report):
    """kill -9 of the server between the first and the last deletion of `compact`; then the deleted data come again."""
    for number in range(options.rounds):
        with bed.closing(Bed(f"server killed while compacting, round {number + 1}", options, report)) as b:
            b.run("repo-create", "-e", "none")
            b.fresh_data("kept", 20, 20000)
            kept = bed.fingerprint(b.source)
            b.run("create", "kept", "kept")
            b.fresh_data("deleted", 1500, 3000)
            b.run("create", "deleted", "deleted")
            both = bed.fingerprint(b.source)
            b.run("delete", "deleted")
            before = b.files()
            process, server = b.start_and_wait("compact", growth=-1)
            time.sleep(b.rng.random() * 0.06)
            os.kill(server, signal.SIGKILL)
            output = process.communicate(timeout=60)[0].decode(errors="replace")
            b.check("the client is told", process.returncode not in (0, None), output[-500:], f"{before - b.files()} of 1500 were gone")
            # The same data again: only what is really there may be taken for stored.
            b.run("create", "again", "deleted", "kept")
            b.whole(("kept", kept), ("again", both))
            b.run("compact")
            b.whole(("again", both))
            b.nothing_left("after the next sessions")


@scenario
def server_killed_while_creating(options, report):
    for number in range(options.rounds):
        with bed.closing(Bed(f"server killed while creating, round {number + 1}", options, report)) as b:
            b.run("repo-create", "-e", "none")
            b.fresh_data("first", 10)
            first = bed.fingerprint(b.source)
            b.run("create", "first", "first")
            b.fresh_data("second", 60)
            process, server = b.start_and_wait("create", "second", "second", growth=b.rng.randrange(2, 40))
            os.kill(server, signal.SIGKILL)
            output = process.communicate(timeout=60)[0].decode(errors="replace")
            b.check("the client is told", process.returncode != 0, output[-500:])
            b.check("no empty object", not bed.empty_objects(b.repository), bed.empty_objects(b.repository))
            b.run("create", "again", "first", "second")
            b.nothing_left("after the next session")
            b.whole(("first", first), ("again", bed.fingerprint(b.source)))


@scenario
def client_killed_while_creating(options, report):
    for number in range(options.rounds):
        with bed.closing(Bed(f"client killed while creating, round {number + 1}", options, report)) as b:
            b.run("repo-create", "-e", "none")
            b.fresh_data("first", 10)
            first = bed.fingerprint(b.source)
            b.run("create", "first", "first")
            b.fresh_data("second", 60)
            process, server = b.start_and_wait("create", "second", "second", growth=b.rng.randrange(2, 40))
            os.kill(process.pid, signal.SIGKILL)
            b.soon_nothing_left()
            b.check("the server ends", bed.wait_until(lambda: not bed.is_alive(server), PROMPT) is not None)
            process.communicate(timeout=60)
            b.run("create", "again", "first", "second")
            b.whole(("first", first), ("again", bed.fingerprint(b.source)))


@scenario
def client_killed_behind_ssh(options, report):
    """The same through a real sshd, which has to notice first."""
    with bed.closing(Bed("client killed behind ssh", options, report)) as b:
        rsh = bed.SSHD(b.place, {"ours": f"{options.server} serve"}).rsh("ours")
        b.run("repo-create", "-e", "none", rsh=rsh)
        b.fresh_data("second", 60)
        process, _ = b.start_and_wait("create", "second", "second", growth=20, rsh=rsh)
        os.kill(process.pid, signal.SIGKILL)
        b.soon_nothing_left(3)
        process.communicate(timeout=60)
        b.run("create", "again", "second", rsh=rsh)
        b.whole(("again", bed.fingerprint(b.source)))


@scenario
def server_told_to_end(options, report):
    for number in (signal.SIGTERM, signal.SIGHUP):
        with bed.closing(Bed(f"server gets {number.name} while creating", options, report)) as b:
            b.run("repo-create", "-e", "none")
            b.fresh_data("first", 10)
            first = bed.fingerprint(b.source)
            b.run("create", "first", "first")
            b.fresh_data("second", 60)
            process, server = b.start_and_wait("create", "second", "second", growth=b.rng.randrange(2, 30))
            os.kill(server, number)
            ended = bed.wait_until(lambda: not bed.is_alive(server), PROMPT)
            b.check(f"it ends within {PROMPT:.0f} s", ended is not None, "it goes on", f"{(ended or 0) * 1000:.0f} ms")
            b.soon_nothing_left()
            if ended is None:
                bed.kill_group(process)
            output = process.communicate(timeout=60)[0].decode(errors="replace")
            b.check("the client is told", process.returncode != 0, output[-500:])
            b.run("create", "again", "first", "second")
            b.whole(("first", first), ("again", bed.fingerprint(b.source)))


@scenario
def disk_full(options, report):
    reason = mounts_missing()
    if reason:
        return report.skip("full disk", reason)
    with bed.closing(Bed("full disk", options, report, inside=lambda place: bed.FileSystem(place, "small", megabytes=64).path)) as b:
        b.run("repo-create", "-e", "none")
        ballast = b.repository.with_name("ballast")
        ballast.write_bytes(bytes(20 << 20))
        b.fresh_data("first", 5)
        first = bed.fingerprint(b.source)
        b.run("create", "first", "first")
        b.fresh_data("second", 70)
        outcome = b.run("create", "second", "second", ok=False)
        b.check("the client is told", outcome.code != 0 and "space" in outcome.output, outcome, f"exit code {outcome.code}")
        b.nothing_left("on the full disk")
        b.check("no empty object", not bed.empty_objects(b.repository), bed.empty_objects(b.repository))
        outcome = b.run("repo-list", rsh=b.ours.rsh, ok=False)
        b.check("on the full disk the client is told again, or served", outcome.code == 0 or "space" in outcome.output, outcome, f"repo-list: exit code {outcome.code}")
        ballast.unlink()
        shutil.rmtree(b.source / "second")
        b.whole(("first", first))
        b.fresh_data("third", 3)
        b.run("create", "third", "first", "third")
        b.run("compact")
        b.whole(("first", first), ("third", bed.fingerprint(b.source)))


@scenario
def disk_read_only(options, report):
    reason = mounts_missing()
    if reason:
        return report.skip("read-only disk", reason)
    with bed.closing(Bed("read-only disk", options, report, inside=lambda place: bed.FileSystem(place, "disk", megabytes=64).path)) as b:
        b.run("repo-create", "-e", "none")
        b.fresh_data("first", 5)
        first = bed.fingerprint(b.source)
        b.run("create", "first", "first")
        mount = b.repository.parent
        subprocess.run(["mount", "-o", "remount,ro", mount], check=True)
        b.fresh_data("second", 2)
        outcome = b.run("create", "second", "second", ok=False)
        b.check("the client is told", outcome.code != 0 and "read-only" in outcome.output.lower(), outcome, f"exit code {outcome.code}")
        subprocess.run(["mount", "-o", "remount,rw", mount], check=True)
        b.nothing_left("afterwards")
        b.run("create", "again", "second")
        b.whole(("first", first))


# What strace makes fail, from when on; `-e inject` counts calls in each thread.
FAULTS = {
    "every sync fails": ("fsync,fdatasync,syncfs,sync_file_range", "error=EIO:when=1+"),
    "renames fail after a while": ("rename,renameat,renameat2,link,linkat", "error=EIO:when=12+"),
    "unlink fails": ("unlink,unlinkat", "error=EIO:when=3+"),
    "no more descriptors for a while": ("openat,openat2", "error=EMFILE:when=40..45"),
}


@scenario
def system_calls_fail(options, report):
    strace = shutil.which("strace")
    if not strace or subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode:
        return report.skip("failing system calls", "strace is missing or may not trace")
    for name, (calls, how) in FAULTS.items():
        with bed.closing(Bed(name, options, report)) as b:
            b.run("repo-create", "-e", "none")
            b.fresh_data("first", 5)
            first = bed.fingerprint(b.source)
            b.run("create", "first", "first")
            b.fresh_data("second", 30)
            log = b.place / "strace.log"
            tracing = [strace, "-qq", "-f", "-o", str(log), "-e", f"trace={calls}", "-e", f"inject={calls}:{how}"]
            faulty = bed.Pipes(b.place, "faulty", options.server, wrapper=tracing).rsh
            outcome = b.run("create", "second", "second", rsh=faulty, ok=False)
            injected = log.read_text().count("(INJECTED)")
            # A fault that hits nothing proves nothing.
            if b.check("calls were made to fail", injected > 0, f"none of {calls} at {how}", f"{injected} calls"):
                b.check("the client is told, or nothing was lost", outcome.code != 0 or name != "every sync fails", outcome,
                        f"exit code {outcome.code}")
            listed = b.run("repo-list", "--format", "{archive}{NL}", rsh=b.original.rsh).output.split()
            b.run("create", "again", "first", "second")
            b.nothing_left("after the next session")
            archives = [("first", first), ("again", bed.fingerprint(b.source))]
            if outcome.code == 0:
                b.check("what was acknowledged is listed", "second" in listed, listed)
                archives.append(("second", {key: value for key, value in bed.fingerprint(b.source).items() if key.startswith("second")}))
            b.whole(*archives)


def mounts_missing():
    if os.geteuid() != 0:
        return "needs root, to mount file systems of its own"
    probe = subprocess.run(["losetup", "-f"], capture_output=True, text=True)
    return f"no loop device: {probe.stderr.strip()}" if probe.returncode else None


def main():
    parser = bed.parser(__doc__, limit=1800)
    scenario.add_argument(parser)
    parser.add_argument("--rounds", type=int, default=3, help="of the scenarios with random moments (%(default)s)")
    options = bed.parse(parser)
    report = bed.Report()
    for play in scenario.chosen(options):
        play(options, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
