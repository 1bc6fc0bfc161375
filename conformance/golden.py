#!/usr/bin/env python3
"""Repositories that each original has made, served by ours; and repositories made through ours, opened by each original.

`recorded` opens every file of golden/ (scripts/record-golden made them: superseded and append-only ones, with a quota, with
segments that were never committed, with an index older than the last commit, in the manner of 1.0). Through the server under
test, the client of the version that made it lists, extracts, checks, creates, prunes and compacts; then the original alone
checks and extracts what is left.

`made` has each version's client make and use a repository through ours; then each original checks and extracts it.
"""

import hashlib
import io
import json
import lzma
import os
import random
import shutil
import signal
import sys
import tarfile

sys.dont_write_bytecode = True
import bed
import borg1

scenario = bed.Scenarios()
GOLDEN = bed.ROOT / "conformance/golden"


class Bed:
    """One repository, our server, and clients of every version."""

    def __init__(self, name, options, report, place, programs, passphrase):
        self.name, self.report, self.place = name, report, place
        self.folder = place.directory(name.replace(" ", "-"))
        self.repository = self.folder / "repository"
        self.source = place.directory(f"source-{name.replace(' ', '-')}")
        self.clients = {program.version: borg1.Client(program, place, BORG_PASSPHRASE=passphrase) for program in programs}
        self.ours = options.ours

    def check(self, what, condition, detail=""):
        if not condition:
            raise bed.Failed(f"{self.name}: {what}\n{detail}")

    def run(self, version, *words, through=True, archive="", cwd=None, **more):
        """A command on the repository, or on an archive, which comes right after the options."""
        location = (self.ours.url(self.repository) if through else str(self.repository)) + archive
        words = [location if word == "@" else word for word in words]
        outcome = self.clients[version].run(*words, rsh=self.ours.rsh if through else None, cwd=cwd or self.source, **more)
        who = f"{version} {'through ours' if through else 'alone'}"
        self.check(f"{words[0]} by {who}", outcome.code == 0, outcome)
        found = borg1.COMPLAINTS.search(outcome.output)
        # What a kill after compaction leaves: older hints, which list segments that are gone.
        excused = "late-index" in self.name and found and found[0] == "not found, but listed"
        self.check(f"nothing to complain of for {who}", not found or excused, outcome)
        return outcome

    def names(self, version, through=True):
        lines = self.run(version, "list", "--format", "archive={archive}{NL}", "@", through=through).output.splitlines()
        return sorted(line.removeprefix("archive=") for line in lines if line.startswith("archive="))

    def compare(self, version, archives, through=True):
        """Lists, and extracts everything."""
        found = self.names(version, through)
        self.check(f"{version} lists all archives", found == sorted(archives), f"expected {sorted(archives)}, found {found}")
        for name, expected in archives.items():
            target = self.folder / "restored"
            target.mkdir()
            self.run(version, "extract", "@", archive=f"::{name}", cwd=target, through=through)
            found = contents(target)
            shutil.rmtree(target)
            self.check(f"{version} extracts {name}", found == expected, bed.difference(expected, found))

    def nothing_left(self):
        left = borg1.leftovers(self.repository)
        self.check("no lock and no temporary file is left", not left, left)


def contents(directory):
    return {path.name: [path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()] for path in sorted(directory.iterdir())}


def unpack(path, folder):
    """Unpacks a recorded repository; what is expected of it."""
    with tarfile.open(fileobj=io.BytesIO(lzma.decompress(path.read_bytes()))) as tar:
        tar.extractall(folder)
    return json.loads((folder / "expected.json").read_text())


def use(b, version, archives, rng):
    """A backup, a deletion by prune, and compaction through ours; what the archives are then."""
    for number in range(3):
        (b.source / f"more {number}").write_bytes(rng.randbytes(3000))
    b.run(version, "create", "--timestamp", "2026-02-01T12:00:00", "@", ".", archive="::new")
    archives = {**archives, "new": contents(b.source)}
    b.run(version, "prune", "--keep-last", "2", "@")
    for name in sorted(archives, key=lambda name: (name == "new", ["first", "second", "third", "new"].index(name)))[:-2]:
        del archives[name]
    if version != "1.1.18":  # which compacts with each commit
        b.run(version, "compact", "--threshold", "0", "@")
    return archives


@scenario
def recorded(options, report):
    paths = sorted(GOLDEN.glob("*.tar.xz"))
    if not paths:
        return report.fail("recorded repositories", "there are none: scripts/record-golden --record")
    rng = random.Random(options.seed)
    for path in paths:
        name = path.name.removesuffix(".tar.xz")
        version = name.split("-", 1)[0]
        try:
            b = Bed(name, options, report, options.place, options.programs, "golden")
            archives = unpack(path, b.folder)["archives"]
            b.compare(version, archives)
            b.run(version, "check", "@")
            archives = use(b, version, archives, rng)
            b.compare(version, archives)
            b.run(version, "check", "@")
            b.nothing_left()
            log = b.repository / "transactions"
            b.check("transactions are logged in append-only mode", ("append-only" in name) == log.exists(), log)
            b.run(version, "check", "--verify-data", "@", through=False)
            b.compare(version, archives, through=False)
            b.run(version, "create", "@", ".", archive="::last", through=False)
            b.run(version, "check", "@")
        except bed.Failed as error:
            report.fail(name, error)
        else:
            report.ok(f"{name}: served by ours, and afterwards by {version} itself")


@scenario
def made(options, report):
    rng = random.Random(options.seed)
    for version, encryption in zip(borg1.ORIGINALS, ["repokey", "none", "repokey-blake2"]):
        try:
            b = Bed(f"made by {version}", options, report, options.place, options.programs, "made")
            b.run(version, "init", "-e", encryption, "@")
            archives = {}
            for number, name in enumerate(["first", "second", "third"]):
                (b.source / f"file {number}").write_bytes(rng.randbytes(2000))
                b.run(version, "create", "--timestamp", f"2026-01-0{number + 1}T12:00:00", "@", ".", archive=f"::{name}")
                archives[name] = contents(b.source)
            b.run(version, "delete", "@", archive="::second")
            del archives["second"]
            archives = use(b, version, archives, rng)
            b.nothing_left()
            for other in borg1.ORIGINALS:
                b.run(other, "check", "--verify-data", "@", through=False)
                b.compare(other, archives, through=False)
            b.run(version, "check", "@")
        except bed.Failed as error:
            report.fail(f"made through ours by {version}", error)
        else:
            report.ok(f"made through ours by {version} ({encryption}): opened by {', '.join(borg1.ORIGINALS)}")


def main():
    parser = bed.parser(__doc__, limit=300)
    scenario.add_argument(parser)
    options = bed.parse(parser)
    options.place = bed.Place("golden", options.keep)
    options.programs = borg1.originals(options.place)
    options.ours = borg1.Pipes(options.place, "ours", borg1.under_test(options.place, options))
    report = bed.Report()
    for play in scenario.chosen(options):
        play(options, report)
    for pid in options.ours.alive():
        os.kill(pid, signal.SIGKILL)
    options.place.close()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
