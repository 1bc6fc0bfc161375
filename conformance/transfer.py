#!/usr/bin/env python3
"""Archives of Borg 1.x that clients of Borg 2 take over: `borg transfer --from-borg1`, with the source behind the server.

`transfers`: repositories made by stock 1.2.9 and 1.4.5 clients in several key modes, transferred by 2.0.0b16, b18 and b21 with
a destination on disk, or behind the server as well. All archives are there, and extracted by the Borg 2 client they are what
was backed up; a second dry run has nothing left to do; the source is what it was, without a lock.

`modes`: with --permissions read-only, and with --append-only, a transfer works; write-only ends it with one line that says why.

`kinds`: what a client is told that opens a repository as the other kind, one of version 2, or none at all: one line, without
a traceback.

`methods`: which methods there are before an open, after one for a repository of Borg 1.x and one for Borg 2's own, as in the
original; what of a repository of Borg 1.x it answers, the same as the original.
"""

import re
import shutil
import sys

sys.dont_write_bytecode = True
import bed

scenario = bed.Scenarios()

# Source client, its key mode, the destination's key mode (the same hash for ids), the client that transfers, and whether its
# destination is behind the server.
TRANSFERS = [
    ("1.4.5", "repokey-blake2", "repokey-blake2-aes-ocb", "2.0.0b16", True),
    ("1.2.9", "repokey", "repokey-aes-ocb", "2.0.0b18", False),
    ("1.4.5", "authenticated", "repokey-aes-ocb", "2.0.0b21", True),
    ("1.2.9", "none", "none", "2.0.0b21", False),
    ("1.4.5", "keyfile-blake2", "repokey-blake2-chacha20-poly1305", "2.0.0b18", True),
]

# Clients before b21 fail in themselves at the first archive that they read of a repository of Borg 1.x over ssh: they call a
# method of their own with an argument that it does not know. This is b21's correction; nothing else of them is changed.
MENDED = """
try:
    from borg.legacyremote import LegacyRemoteRepository
except ImportError:
    pass
else:
    get_many = LegacyRemoteRepository.get_many
    LegacyRemoteRepository.get_many = (
        lambda self, ids, read_data=True, is_preloaded=False, raise_missing=True: get_many(self, ids, read_data, is_preloaded))
"""


class Bed:
    """A repository that a client of Borg 1.x has made, and servers for it."""

    def __init__(self, name, options, report, version="1.4.5", mode="repokey-blake2"):
        self.name, self.options, self.report = name, options, report
        self.place = bed.Place("transfer", options.keep)
        self.source, self.destination = self.place / "one", self.place / "two"
        self.trees, self.ours = {}, bed.Pipes(self.place, "ours", options.server)
        self.maker = bed.Client(version, self.place, repository=str(self.source))
        self.must(self.maker, "init", "-e", mode)
        for number, archive in enumerate(("first", "second")):
            tree = bed.make_tree(self.place / "tree", options.seed + number, megabytes=1, small_files=20)
            self.must(self.maker, "create", "-C", ("lz4", "zstd,1")[number], f"::{archive}", ".", cwd=tree)
            self.trees[archive] = bed.fingerprint(tree)

    def check(self, what, condition, detail=""):
        return self.report.check(f"{self.name}: {what}", condition, detail)

    def must(self, client, *arguments, **more):
        outcome = client.run(*arguments, **more)
        if outcome.code != 0:
            raise bed.Failed(str(outcome))
        return outcome

    def client(self, version, served=False, rsh=None):
        """A client of Borg 2 with the destination for its repository."""
        repository = self.ours.url(self.destination) if served else str(self.destination)
        client = bed.Client(version, self.place, repository=repository, rsh=rsh or self.ours.rsh,
                            BORG_OTHER_PASSPHRASE="correct horse",
                            BORG_TESTONLY_WEAKEN_KDF="0")  # keys of 1.x know no weaker kind
        if version < "2.0.0b21":
            mended = self.place.directory("mended")
            (mended / "sitecustomize.py").write_text(MENDED)
            client.environment["PYTHONPATH"] = str(mended)
        return client

    def other(self, path=None):
        return "--other-repo", self.ours.url(path or self.source), "--from-borg1"

    def files(self):
        """Everything in the source but its config, which no transfer has a reason to touch either."""
        return {str(path.relative_to(self.source)): path.read_bytes() for path in self.source.rglob("*") if path.is_file()}

    def refused(self, what, outcome, pattern):
        """The command has failed with one line of that kind, and without a traceback."""
        told = [line for line in outcome.output.splitlines() if re.search(pattern, line)]
        self.check(what, outcome.code not in (0, 1) and len(told) == 1 and "Traceback" not in outcome.output, outcome)

    def close(self):
        self.place.close()


@scenario
def transfers(options, report):
    for version, mode, new_mode, by, served in TRANSFERS:
        name = f"{version} {mode} by {by}{' to ours' if served else ''}"
        with bed.closing(Bed(name, options, report, version, mode)) as b:
            before = b.files()
            client = b.client(by, served)
            b.must(client, "repo-create", "-e", new_mode, *b.other())
            dry = b.must(client, "transfer", "--dry-run", *b.other())
            b.check("a dry run has something to do", dry.output.count("incomplete") == len(b.trees), dry)
            b.must(client, "transfer", *b.other())
            dry = b.must(client, "transfer", "--dry-run", *b.other())
            b.check("another one has not", dry.output.count("completed") == len(b.trees), dry)
            for archive, expected in b.trees.items():
                target = b.place.directory(f"extracted {archive}")
                outcome = client.run("extract", archive, cwd=target)
                found = bed.fingerprint(target)
                b.check(f"{archive} is extracted identically", outcome.code == 0 and found == expected,
                        f"{outcome}\n{bed.difference(expected, found)}")
            after = b.files()
            changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
            b.check("the source is what it was", not changed, changed)
            b.check("no server is left", not b.ours.alive())


@scenario
def modes(options, report):
    with bed.closing(Bed("modes", options, report)) as b:
        for index, arguments in enumerate((["--permissions", "read-only"], ["--append-only"])):
            limited = bed.Pipes(b.place, f"limited-{index}", options.server, *arguments)
            b.destination = b.place / f"to {index}"
            client = b.client("2.0.0b18", rsh=limited.rsh)
            b.must(client, "repo-create", "-e", "repokey-blake2-aes-ocb", *b.other())
            outcome = client.run("transfer", *b.other())
            b.check(f"{' '.join(arguments)}: a transfer works", outcome.code == 0, outcome)
        limited = bed.Pipes(b.place, "write-only", options.server, "--permissions", "write-only")
        for version in ("2.0.0b16", "2.0.0b18", "2.0.0b21"):
            outcome = b.client(version, rsh=limited.rsh).run("transfer", *b.other())
            b.refused(f"write-only: {version} is told", outcome, "Permission denied: reading objects .*write-only")
        b.check("no lock is left", not list(b.source.glob("lock.*")))


@scenario
def kinds(options, report):
    with bed.closing(Bed("kinds", options, report)) as b:
        for version in ("2.0.0b16", "2.0.0b18", "2.0.0b21"):
            b.destination = b.place / f"of {version}"
            client = b.client(version)
            b.must(client, "repo-create", "-e", "none")
            outcome = client.run("transfer", *b.other(b.destination))
            b.refused(f"{version}: Borg 2's own as a source of Borg 1", outcome, "is a repository of Borg 2.*without --from-borg1")
            outcome = client.run("transfer", *b.other(b.place / "nowhere"))
            b.refused(f"{version}: nothing", outcome, "does not exist")
            outcome = client.run("-r", b.ours.url(b.source), "repo-info")
            b.refused(f"{version}: Borg 1's as a repository", outcome, "is a repository of Borg 1.x")
        config = b.source / "config"
        config.write_text(config.read_text().replace("version = 1\n", "version = 2\n"))
        for version in ("2.0.0b16", "2.0.0b18", "2.0.0b21"):
            b.destination = b.place / f"of {version}"
            b.refused(f"{version}: version 2", b.client(version).run("transfer", *b.other()), "version 2, which only early betas")
        b.check("no lock is left", not list(b.source.glob("lock.*")))


# Those that do nothing without arguments.
METHODS = ("__len__ delete get get_free_nonce get_manifest info inject_exception list load_key negotiate nonsense open put "
           "put_manifest rollback save_key scan store_delete store_list store_load store_move store_store").split()
ZERO = bytes(32)


@scenario
def methods(options, report):
    with bed.closing(Bed("methods", options, report)) as b:
        client = b.client("2.0.0b18")
        b.must(client, "repo-create", "-e", "none")
        servers = {}
        for name, program in (("original", options.original), ("ours", options.server)):
            servers[name] = bed.Server(program, cwd=b.place.path, environment={"BORG_SELFTEST": "disabled"})
            b.place.undo(servers[name].kill)

        def both(method, **arguments):
            return [server.call(method, **arguments) for server in servers.values()]

        def same(what, method, **arguments):
            answers = both(method, **arguments)
            b.check(what, not answers[0].failed and answers[0].value == answers[1].value, str(answers)[:500])

        def known(what):
            unknown = []
            for server in servers.values():
                unknown.append([m for m in METHODS if server.call(m).error == "InvalidRPCMethod"])
            b.check(f"the same methods are known {what}", unknown[0] == unknown[1], unknown)

        # The original (b18) takes what 1.x has written for a damaged index and dies of its own warning; it makes itself one of its own.
        copy = b.place / "for the original"
        shutil.copytree(b.source, copy)
        for path in [*copy.glob("integrity.*"), *copy.glob("index.*"), *copy.glob("hints.*")]:
            path.unlink()

        def opened(legacy):
            for name, server in servers.items():
                path = str(b.destination if not legacy else b.source if name == "ours" else copy)
                answer = server.call("open", path=path, lock_wait=20.0, lock=False, exclusive=True, v1_or_v2=legacy)
                if answer.failed:
                    raise bed.Failed(f"open {path}: {answer}")

        for server in servers.values():
            server.call("negotiate", client_data={"client_version": [2, 0, 0, -3, 18]})
        known("before an open")
        opened(True)
        same("info", "info")
        same("__len__", "__len__")
        same("load_key", "load_key")
        same("get_manifest", "get_manifest")
        same("get", "get", id=ZERO)
        same("get without data", "get", id=ZERO, read_data=False)
        same("get of what is missing", "get", id=b"x" * 32, raise_missing=False)
        lists = both("list")
        b.check("list", sorted(lists[0].value) == sorted(lists[1].value), lists)
        unlike = [answers for answers in (both("get", id=name) for name in lists[0].value) if answers[0].value != answers[1].value]
        b.check(f"{len(lists[0].value)} objects", not unlike, str(unlike[:1])[:500])
        missing = both("get", id=b"x" * 32)
        b.check("a missing object", all(a.error == "ObjectNotFound" for a in missing) and len({a.arguments[0] for a in missing}) == 1, missing)
        known("after one for Borg 1.x")
        both("close")
        opened(False)
        known("after one for Borg 2")
        both("close")
        b.check("both end well", [server.end() for server in servers.values()] == [0, 0], [s.errors()[-500:] for s in servers.values()])


def main():
    made = bed.parser(__doc__, 80)
    scenario.add_argument(made)
    options = bed.parse(made)
    bed.load_msgpack()
    report = bed.Report()
    bed.run_beside_each_other([lambda f=f: f(options, report) for f in scenario.chosen(options)], 2)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
