#!/usr/bin/env python3
"""The modes of --permissions, with stock clients of several versions: what goes on, what is refused, what is on disk.

One repository per client and mode, made without a restriction. In the mode: backups go on (no-delete, write-only) or not
(read-only), archives are read (no-delete, read-only) or not, and every command that would delete, overwrite or destroy ends
with an error, one line that says why, no traceback, and the same files as before (locks and the cached chunk indexes, which
hold no backup, apart). Afterwards the original's `check --verify-data` finds no fault, and what was backed up is extracted
identically. The variable BORG_REPO_PERMISSIONS counts where the option is not given, and only there.

Beside it, the class with which each version's own client learns of a missing object.
"""

import os
import subprocess
import sys

sys.dont_write_bytecode = True
import bed

VERSIONS = ("2.0.0b16", "2.0.0b18", "2.0.0b21")
REASON = "Permission denied: "

# What must be refused: the command, and whether write-only clients, who cannot even read the archive, come that far.
REFUSED = [
    (("delete", "one"), False),
    (("compact",), False),
    (("prune", "--keep-last", "1"), False),
    (("check", "--repair"), True),
    (("key", "change-passphrase"), True),
    (("repo-delete",), True),
]


class Bed:
    """A repository with two archives, and a third that is deleted and not yet compacted, and a client of it."""

    def __init__(self, version, mode, options, report):
        self.name, self.mode, self.options, self.report = f"{version} {mode}", mode, options, report
        self.place = bed.Place("permissions", options.keep)
        self.repository = self.place / "repository"
        dialect = bed.dialect(version)
        self.ours = bed.Pipes(self.place, "all", options.server, *dialect)
        self.limited = bed.Pipes(self.place, "limited", options.server, *dialect, "--permissions", mode)
        self.original = bed.Pipes(self.place, "original", str(bed.client_path(version)) if dialect else options.original, *dialect)
        self.client = bed.Client(version, self.place, repository=self.ours.url(self.repository, version), rsh=self.ours.rsh)
        self.source = self.place.directory("source")
        (self.source / "kept").write_bytes(os.urandom(200_000))
        self.run(self.ours, "repo-create", *(bed.encryption(version) if dialect else ("-e", "repokey-aes-ocb")), ok=True)
        self.run(self.ours, "create", "zero", ".", ok=True)
        self.run(self.ours, "create", "one", ".", ok=True)
        self.first = bed.fingerprint(self.source)
        (self.source / "of gone").write_bytes(os.urandom(200_000))
        self.run(self.ours, "create", "gone", ".", ok=True)
        (self.source / "of gone").unlink()
        self.run(self.ours, "delete", "gone", ok=True)

    def run(self, server, *arguments, ok=False, cwd=None, environment={}):
        outcome = self.client.run(*arguments, cwd=cwd or self.source, environment={"BORG_RSH": server.rsh, **environment})
        if ok and outcome.code != 0:
            raise SystemExit(f"{self.name}: {outcome}")
        return outcome

    def check(self, what, condition, detail=""):
        return self.report.check(f"{self.name}: {what}", condition, detail)

    def files(self):
        found = {}
        for namespace in ("archives", "config", "data", "keys", "packs"):
            for directory, _, names in os.walk(self.repository / namespace):
                for name in names:
                    path = os.path.join(directory, name)
                    found[path] = open(path, "rb").read()
        return found

    def refused(self, *arguments, reason=True, trace=False, server=None, environment={}):
        """The command fails with one line that gives the reason, and the repository is what it was.

        `trace`: the client is known to stumble over its own handling of any error here.
        """
        before = self.files()
        outcome = self.run(server or self.limited, *arguments, environment=environment)
        lines = [line for line in outcome.output.splitlines() if line.startswith(REASON) and self.mode in line]
        told = len(lines) == 1 if reason else not lines or len(lines) == 1
        self.check(f"{' '.join(arguments)} is refused in one line", outcome.code not in (0, 1) and (trace or told and "Traceback" not in outcome.output),
                   outcome)
        after = self.files()
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        self.check(f"{' '.join(arguments)} changes nothing on disk", not changed, changed[:5])
        self.check(f"{' '.join(arguments)} leaves no lock", not bed.lock_files(self.repository))

    def extracted(self, server, archive, expected):
        target = self.place.directory(f"extracted from {archive}")
        outcome = self.run(server, "extract", archive, cwd=target)
        found = bed.fingerprint(target)
        self.check(f"{archive} is extracted identically", outcome.code == 0 and found == expected,
                   f"{outcome}\n{bed.difference(expected, found)}")

    def backups_go_on(self):
        """Three of them, one with the name of the one before; returns what is in the last."""
        for name in ("two", "two", "three"):
            (self.source / f"for {name}").write_bytes(os.urandom(100_000))
            outcome = self.run(self.limited, "create", name, ".")
            self.check(f"create {name}", outcome.code == 0 and REASON not in outcome.output, outcome)
        return bed.fingerprint(self.source)

    def close(self):
        self.place.close()


def modes_with_client(version, options, report):
    for mode in ("no-delete", "write-only", "read-only"):
        b = Bed(version, mode, options, report)
        try:
            reads, adds = mode != "write-only", mode != "read-only"
            if adds:
                third = b.backups_go_on()
            else:
                b.refused("create", "two", ".")
            if reads:
                b.extracted(b.limited, "one", b.first)
                outcome = b.run(b.limited, "repo-list")
                b.check("repo-list", outcome.code == 0 and "one" in outcome.output, outcome)
            else:
                outcome = b.run(b.limited, "extract", "one", cwd=b.place.directory("nothing"))
                b.check("extract gives nothing", outcome.code != 0 and not os.listdir(b.place / "nothing"), outcome)
            # From b18 on, `compact` has a clause for deleted archives that raises an AttributeError for whatever comes.
            b.refused("compact", reason=reads, trace=True)
            for entry in (b.repository / "archives").glob("*.del"):
                entry.unlink()
            for arguments, without_reading in REFUSED:
                b.refused(*arguments, reason=reads or without_reading)
            if reads and adds:
                # Those that replace an archive add the new one, which is permitted, and fail to remove the old one.
                entries = sorted(entry.name for entry in (b.repository / "archives").iterdir())
                outcome = b.run(b.limited, "rename", "zero", "null")
                left = sorted(entry.name for entry in (b.repository / "archives").iterdir())
                b.check("rename leaves the old archive", outcome.code == 2 and REASON in outcome.output and set(entries) < set(left), outcome)
            # Storing an object again is no error: with reading, the command believes to have done it.
            before = b.files()
            outcome = b.run(b.limited, "repo-compress", "-C", "zstd,9")
            b.check("repo-compress changes nothing on disk", b.files() == before, outcome)
            outcome = b.run(b.original, "check", "--verify-data", "-v")
            b.check("the original's check --verify-data finds no fault", outcome.code == 0 and "0 errors" in outcome.output, outcome)
            b.extracted(b.original, "one", b.first)
            if adds:
                b.extracted(b.original, "three", third)
            outcome = b.run(b.ours, "compact")
            b.check("a key without a mode compacts", outcome.code == 0, outcome)
            b.extracted(b.original, "one", b.first)
        finally:
            b.close()


def option_and_variable(options, report):
    b = Bed(bed.ORIGINAL_VERSION, "read-only", options, report)
    try:
        b.name = "BORG_REPO_PERMISSIONS"
        variable = {"BORG_REPO_PERMISSIONS": "read-only"}
        b.refused("create", "two", ".", server=b.ours, environment=variable)
        permitted = bed.Pipes(b.place, "permitted", options.server, "--permissions=all")
        outcome = b.run(permitted, "create", "two", ".", environment=variable)
        b.check("the option wins over the variable", outcome.code == 0, outcome)
        outcome = b.run(b.limited, "create", "three", ".", environment={"BORG_REPO_PERMISSIONS": "all"})
        b.check("the option wins in the other direction", outcome.code == 2 and REASON in outcome.output, outcome)
        outcome = b.run(b.ours, "repo-info", environment={"BORG_REPO_PERMISSIONS": "everything"})
        b.check("another word opens nothing", outcome.code == 2 and "Invalid BORG_REPO_PERMISSIONS value: everything" in outcome.output,
                outcome)
    finally:
        b.close()


ERRORS = """
import sys
from borg.helpers import Location
from borg.logger import setup_logging
setup_logging()
from borg.remote import RemoteRepository
import argparse
from borg.constants import *
args = argparse.Namespace(remote_path=None, umask=None, log_json=False, rsh=None, lock_wait=1, debug_topics=[], upload_buffer=0, upload_ratelimit=0)
with RemoteRepository(Location(sys.argv[1]), create=True, exclusive=True, lock_wait=1, args=args) as repository:
    for method, arguments in (("store_load", ("archives/aa",)), ("store_delete", ("cache/chunks",)), ("get", (b"x" * 32,)), ("load_key", ())):
        try:
            getattr(repository, method)(*arguments)
        except Exception as error:
            print(method, type(error).__qualname__)
"""


def error_classes(version, options, report):
    """What the client's own code makes of our answers about missing objects."""
    place = bed.Place("classes", options.keep)
    try:
        pipes = bed.Pipes(place, "ours", options.server)
        client = bed.Client(version, place, rsh=pipes.rsh)
        done = subprocess.run([client.borg.parent / "python", "-c", ERRORS, pipes.url(place / "repository")], env=client.environment,
                              capture_output=True, text=True, timeout=60)
        missing = "ObjectNotFound" if version == "2.0.0b21" else "Repository.ObjectNotFound"
        expected = [f"store_load {missing}", f"store_delete {missing}", "get Repository.ObjectNotFound", f"load_key {missing}"]
        report.check(f"{version}: missing objects are the classes that its code expects", done.stdout.splitlines() == expected,
                     f"{expected}\n{done.stdout}{done.stderr}")
    finally:
        place.close()


def main():
    parser = bed.parser(__doc__, limit=600)
    parser.add_argument("versions", nargs="*", default=list(VERSIONS), help="clients (%(default)s)")
    options = bed.parse(parser)
    report = bed.Report()
    for version in options.versions:
        error_classes(version, options, report)
        modes_with_client(version, options, report)
    option_and_variable(options, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
