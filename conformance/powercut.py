#!/usr/bin/env python3
"""Power cuts below a server that stock clients are using, on real file systems.

Each cycle backs up changing data into a repository on a loop-mounted ext4 or xfs, and at a random moment (in the middle of
`create`, of `compact` after a `delete`, or right after a command has succeeded) shuts the file system down by
FS_IOC_SHUTDOWN without flushing its log: nothing that was not on the medium by then ever will be. The server is killed,
the file system mounted again, its journal replayed. Then, by the original server:

* every archive whose `create` had exited with 0 before the cut is listed and extracted identically;
* `check --verify-data` finds no corrupted repository object, and no archive misses a chunk;
* no object is empty, and with the next session no unfinished file is left.

With --client it is another client and its repository; one from 2.0.0b22 on speaks HTTP, its own version judges upon the
directory itself, without any server, and each object has to be what its name says.

With --borg1 it is a Borg 1.x repository under 1.4.5 clients: the original judges without any server, and cuts hit the commits
of `create`, `delete` and `compact` alike.

The repository lives on through all cycles. The original as server under test is expected to fail: it never syncs; that of
1.4.5 does, and is not.
Needs root and a loop device; ends with 77 otherwise.
"""

import os
import random
import shutil
import signal
import subprocess
import sys

sys.dont_write_bytecode = True
import bed
import borg1

MOMENTS = ("in the middle of create", "right after create", "in the middle of compact", "right after compact")


class Cycle:
    def __init__(self, options, report):
        self.options, self.report, self.rng = options, report, random.Random(options.seed)
        self.place = bed.Place("powercut", options.keep, inside=options.inside)
        self.disk = bed.FileSystem(self.place, "disk", options.fs, megabytes=512)
        self.repository = self.disk.path / "repository"
        self.ours = bed.Pipes(self.place, "ours", options.server, *bed.dialect(options.client))
        self.original = bed.Pipes(self.place, "original", options.original)
        self.client = bed.Client(options.client, self.place, repository=self.ours.url(self.repository, options.client), rsh=self.ours.rsh)
        self.source = self.place.directory("source")
        self.acknowledged = {}  # archive: fingerprint

    def run(self, *arguments, rsh=None, cwd=None):
        return self.client.run(*arguments, cwd=cwd or self.source, environment={"BORG_RSH": rsh or self.ours.rsh})

    def judged(self, *arguments, cwd=None):
        """Runs a command by the original alone."""
        if bed.speaks_rest(self.options.client):
            return self.client.run(*arguments, cwd=cwd or self.source, environment={"BORG_REPO": str(self.repository)})
        return self.run(*arguments, rsh=self.original.rsh, cwd=cwd)

    def must(self, *arguments, **more):
        outcome = self.run(*arguments, **more)
        if outcome.code != 0:
            raise RuntimeError(str(outcome))
        return outcome

    def change(self, number):
        """New files, changed files, vanished files; the folder does not grow without end."""
        for old in sorted(self.source.iterdir())[: max(0, len(list(self.source.iterdir())) - 3)]:
            shutil.rmtree(old)
        folder = self.source / f"{number:04}"
        folder.mkdir()
        for index in range(300):
            (folder / f"small-{index}").write_bytes(self.rng.randbytes(self.rng.randrange(1, 4000)))
        for index in range(self.rng.randrange(4, 16)):
            (folder / f"large-{index}").write_bytes(self.rng.randbytes(1 << 20))

    def cut_during(self, duration, *arguments):
        """Starts a command, cuts the power after a random part of its usual duration; whether it had succeeded before."""
        process = self.client.start(*arguments, cwd=self.source)
        delay = self.rng.uniform(0.1, 1.1) * duration
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            pass
        before = process.poll()
        self.disk.cut()
        for pid in self.ours.alive():
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=60)
        return before == 0, delay

    def round(self, number, moment):
        name = f"cycle {number}, {self.options.fs}, {moment}"
        self.change(number)
        expected, archive, note = bed.fingerprint(self.source), f"archive-{number}", ""
        if moment == "in the middle of create":
            done, delay = self.cut_during(self.duration, "create", archive, ".")
            note = f"after {delay:.2f} s" + (", and create had just succeeded" if done else "")
            if done:
                self.acknowledged[archive] = expected
        else:
            outcome = self.must("create", archive, ".")
            self.duration = outcome.seconds
            self.acknowledged[archive] = expected
            if moment == "right after create":
                self.disk.cut()
            else:
                victim = self.rng.choice(sorted(self.acknowledged))
                self.must("delete", victim)
                del self.acknowledged[victim]
                if moment == "right after compact":
                    self.must("compact")
                    self.disk.cut()
                else:
                    done, delay = self.cut_during(1.0, "compact")
                    note = f"after {delay:.2f} s"
        self.disk.remount()
        self.judge(name, note)

    def judge(self, name, note):
        """Everything that has to be true after the lights are on again."""
        check = self.report.check
        if bed.speaks_rest(self.options.client):
            wrong = bed.misnamed_objects(self.repository)
            check(f"{name}: each object is what its name says", not wrong, "\n".join(wrong[:5]), note)
        else:
            empty = bed.empty_objects(self.repository)
            check(f"{name}: no empty object", not empty, "\n".join(empty[:5]), note)
        outcome = self.judged("check", "--verify-data", "-v")
        os.sync()  # The original syncs nothing: the index that its check wrote must not be what the next cut finds.
        clean = outcome.code == 0 and "0 errors" in outcome.output
        check(f"{name}: the original finds no corrupted object", clean, outcome)
        lost = []
        for archive, expected in self.acknowledged.items():
            target = self.place.directory("restored")
            outcome = self.judged("extract", archive, cwd=target)
            found = bed.fingerprint(target)
            shutil.rmtree(target)
            if outcome.code != 0 or found != expected:
                lost.append(f"{archive}: exit code {outcome.code}, {outcome.output.strip()[-200:]}\n{bed.difference(expected, found, 2)}")
        check(f"{name}: all {len(self.acknowledged)} acknowledged archives are intact", not lost, "\n".join(lost))
        outcome = self.run("repo-list")
        check(f"{name}: the next session is served and leaves nothing", outcome.code == 0 and not bed.lock_files(self.repository),
              f"{outcome}\nlocks {bed.lock_files(self.repository)}")
        while len(self.acknowledged) > 4:  # to keep the extractions short
            victim = next(iter(self.acknowledged))
            self.run("delete", victim)
            del self.acknowledged[victim]
        os.sync()  # what the original wrote while judging is not to be lost on our account

    def all(self):
        self.must("repo-create", *bed.encryption(self.options.client))
        self.change(0)
        self.duration = self.must("create", "archive-0", ".").seconds
        self.acknowledged["archive-0"] = bed.fingerprint(self.source)
        os.sync()
        self.cycles()
        outcome = self.run("create", "last", ".")
        self.report.check("a last backup succeeds", outcome.code == 0, outcome)
        self.report.check("no lock and no unfinished file is left", not bed.lock_files(self.repository) and not bed.staged_files(self.repository),
                          f"{bed.lock_files(self.repository)} {bed.staged_files(self.repository)[:5]}")

    def cycles(self):
        moments = []
        for number in range(1, self.options.cycles + 1):
            if not moments:
                moments = list(MOMENTS)
                self.rng.shuffle(moments)
            before = len(self.report.failures)
            try:
                self.round(number, moments.pop())
            except RuntimeError as error:
                self.report.fail(f"cycle {number} went on", error)
            if len(self.report.failures) > before:
                print("        (stopping: later cycles would judge a repository that is already damaged)")
                break


class Cycle1(Cycle):
    """The same with Borg 1.4.5."""

    def __init__(self, options, report):
        self.options, self.report, self.rng = options, report, random.Random(options.seed)
        self.place = bed.Place("powercut", options.keep, inside=options.inside)
        self.disk = bed.FileSystem(self.place, "disk", options.fs, megabytes=512)
        self.repository = self.disk.path / "repository"
        self.ours = borg1.Pipes(self.place, "ours", borg1.under_test(self.place, options))
        self.original = self.ours  # judges by itself
        self.client = borg1.Client(borg1.originals(self.place, ["1.4.5"])[0], self.place, BORG_PASSPHRASE="power")
        self.source = self.place.directory("source")
        self.acknowledged = {}

    def words(self, arguments, alone=False):
        """The locations of 1.x, in arguments of Borg 2."""
        location = str(self.repository) if alone else self.ours.url(self.repository)
        if arguments[0] in ("create", "delete", "extract"):
            return [arguments[0], f"{location}::{arguments[1]}", *arguments[2:]]
        return [*arguments, location]

    def run(self, *arguments, alone=False, cwd=None):
        return self.client.run(*self.words(arguments, alone), rsh=self.ours.rsh, cwd=cwd or self.source)

    def cut_during(self, duration, *arguments):
        process = self.client.start(*self.words(arguments), rsh=self.ours.rsh, cwd=self.source)
        delay = self.rng.uniform(0.1, 1.1) * duration
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            pass
        before = process.poll()
        self.disk.cut()
        for pid in self.ours.alive():
            os.kill(pid, signal.SIGKILL)
        process.wait(60)
        bed.wait_until(lambda: not self.ours.alive(), 10)
        return before == 0, delay

    def judge(self, name, note):
        check = self.report.check
        outcome = self.run("check", "--verify-data", alone=True)
        check(f"{name}: the original finds no fault", outcome.code == 0, outcome, note)
        lost = []
        for archive, expected in self.acknowledged.items():
            target = self.place.directory("restored")
            outcome = self.run("extract", archive, cwd=target, alone=True)
            found = bed.fingerprint(target)
            shutil.rmtree(target)
            if outcome.code != 0 or found != expected:
                lost.append(f"{archive}: exit code {outcome.code}, {outcome.output.strip()[-200:]}\n{bed.difference(expected, found, 2)}")
        check(f"{name}: all {len(self.acknowledged)} acknowledged archives are intact", not lost, "\n".join(lost))
        outcome = self.run("list")
        check(f"{name}: the next session is served and leaves nothing", outcome.code == 0 and not self.left(), f"{outcome}\n{self.left()}")
        while len(self.acknowledged) > 3:
            victim = next(iter(self.acknowledged))
            self.run("delete", victim)
            del self.acknowledged[victim]
        os.sync()  # what the original wrote while judging is not to be lost on our account

    def left(self):
        """Locks and temporary files, but for those that a later commit removes."""
        return [name for name in borg1.leftovers(self.repository) if not name.startswith(("index.", "hints.", "integrity."))]

    def all(self):
        self.must("init", "-e", "repokey-blake2")
        borg1.configure(self.repository, max_segment_size=5_000_000)  # a commit wants that much free space, and more
        self.change(0)
        self.duration = self.must("create", "archive-0", ".").seconds
        self.acknowledged["archive-0"] = bed.fingerprint(self.source)
        self.cycles()
        outcome = self.run("create", "last", ".")
        self.report.check("a last backup succeeds", outcome.code == 0, outcome)
        left = borg1.leftovers(self.repository)
        self.report.check("no lock and no temporary file is left", not left, left)


def main():
    parser = bed.parser(__doc__, limit=3600)
    parser.add_argument("--cycles", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--fs", choices=("ext4", "xfs"), default="ext4")
    parser.add_argument("--client", default=bed.ORIGINAL_VERSION, metavar="VERSION", help="of Borg 2 (%(default)s)")
    parser.add_argument("--borg1", action="store_true", help="a Borg 1.x repository, and 1.4.5 clients")
    parser.add_argument("--inside", metavar="DIR", help="where the image is put (default: the temporary directory)")
    options = bed.parse(parser)
    bed.need_mounts()
    report = bed.Report()
    cycle = (Cycle1 if options.borg1 else Cycle)(options, report)
    cycle.all()
    for pid in cycle.ours.alive() + cycle.original.alive():
        os.kill(pid, signal.SIGKILL)
    cycle.place.close()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
