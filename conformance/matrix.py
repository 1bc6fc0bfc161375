#!/usr/bin/env python3
"""Every command of stock clients, each served at random by our server or by the original's, on one repository.

With clients of Borg 1.x the commands are those of 1.x, else those of Borg 2. Clients from 2.0.0b22 on speak REST to
`serve --rest`; there the two servers may also alternate by process within one command, as a seed decides.

A run is CLIENT/TRANSPORT. The transports: `pipes`, BORG_RSH being a command that becomes the server at once, and `ssh`,
a real sshd on loopback with one user key for each server whose forced command it is. The clients: one version, or
several joined by `+`, of which each command is run by one at random. The original server is the client's own version's,
because 2.0.0b21 clients do not understand the older servers' answers for missing objects.

With 2.0.0b22 and later there is a third transport, `http`: the server under test is started once by --listen, and serves
all repositories below --url; beside it borgstore-server-rest runs for each repository. Each command gets the URL of one
of them, at random.

Proved: each command succeeds and prints what it should, whoever served those before it; restored folders are what was
backed up; afterwards no lock and no unfinished file is left, and the original's `check --verify-data` finds no fault.

Not covered: `mount`, which needs FUSE and llfuse or pyfuse3 in the client; `debug dump-hints` of 1.x and `config`, which
do not talk to a server.
"""

import functools
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import sys

sys.dont_write_bytecode = True
import bed

RUNS = [f"{clients}/{transport}" for transport in ("pipes", "ssh")
        for clients in ("1.1.18", "1.2.9", "1.4.5", "1.1.18+1.4.5", "1.1.18+1.2.9+1.4.5",
                        "2.0.0b16", "2.0.0b18", "2.0.0b21", "2.0.0b18+2.0.0b21",
                        "2.0.0b22", "2.0.0b23", "2.0.0b24", "2.0.0b25", "2.0.0b23+2.0.0b24")]
# What clients say when the same repository is at another address than last time.
RELOCATED = re.compile(r"^Warning: The repository at location .* was previously located at .*\nDo you want to continue\?.*\n", re.MULTILINE)
# Stands for the address of whichever server a command is to use.
ANY_SERVER = "http://any.invalid/"
ENCRYPTION = ["repokey-aes-ocb", "repokey-chacha20-poly1305", "repokey-blake2-aes-ocb", "repokey-blake2-chacha20-poly1305"]


ENCRYPTION_1 = ["none", "authenticated", "authenticated-blake2", "repokey", "repokey-blake2", "keyfile", "keyfile-blake2"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def is_listening(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class Run:
    """One repository and everything that is done with it; `everything` is what a subclass does."""

    servers = ["ours", "original"]
    dialect = []  # further options of `serve`

    def __init__(self, name, options, report):
        self.name, self.report = name, report
        versions, self.transport = name.split("/")
        self.versions = versions.split("+")
        self.rng = random.Random(f"{options.seed} {name}")
        self.place = bed.Place("matrix", options.keep)
        self.tree = bed.make_tree(self.place / "source/tree", self.rng.random(), megabytes=3, small_files=60)
        self.environment, self.served = {}, dict.fromkeys(self.servers, 0)
        repositories = self.place.directory("repositories")
        self.clients, self.rsh = {}, {}
        commands = {"ours": options.server, **{f"original-{version}": str(bed.client_path(version)) for version in self.versions}}
        commands |= self.more_servers(commands)
        if self.transport == "ssh":
            self.sshd = bed.SSHD(self.place, {key: f"{command} {' '.join(['serve', *self.dialect])} --restrict-to-path {repositories}" for key, command in commands.items()})
            self.rsh = {key: self.sshd.rsh(key) for key in commands}
            self.host = self.sshd.address
        elif self.transport == "http":
            self.listen(options, repositories)
        else:
            pipes = {key: bed.Pipes(self.place, key, command, *self.dialect, "--restrict-to-path", str(repositories)) for key, command in commands.items()}
            self.rsh = {key: pipe.rsh for key, pipe in pipes.items()}
            self.host = "test"
        self.repository = repositories / "repository"
        for version in self.versions:
            self.clients[version] = bed.Client(version, self.place, home=f"home-{version}", repository=self.url(self.repository, version))

    def more_servers(self, commands):
        return {}

    def addressed(self, arguments, environment, server, version):
        """The arguments and environment of a command with the addresses of the server that it is to use."""
        return arguments, environment

    def borg(self, *arguments, server=None, version=None, **more):
        """Runs a command that has to succeed; its output, or an exception that ends this run."""
        version = version or self.rng.choice(self.versions)
        server = server or self.rng.choice(self.servers)
        self.served[server] += 1
        rsh = self.rsh.get("ours" if server == "ours" else f"{server}-{version}", "false")
        # 2.0.0b22 heeds only the second one.
        environment = {**self.environment, **more.pop("environment", {}), "BORG_RSH": rsh, "BORGSTORE_RSH": rsh}
        arguments, environment = self.addressed(arguments, environment, server, version)
        outcome = self.clients[version].run(*arguments, environment=environment, cwd=more.pop("cwd", self.place / "source"), **more)
        self.last = f"{outcome}\n(client {version}, served by {server})"
        if outcome.code != 0:
            raise bed.Failed(self.last)
        return re.sub(RELOCATED, "", outcome.output)

    def expect(self, condition, what):
        if not condition:
            raise bed.Failed(f"{what}\n{self.last}")

    def same_tree(self, archive, expected, **more):
        """Extracts and compares."""
        target = self.place.directory("restored")
        self.borg("extract", archive, cwd=target, **more)
        found = bed.fingerprint(target)
        shutil.rmtree(target)
        self.expect(found == expected, f"what was extracted from {archive} differs:\n{bed.difference(expected, found)}")

    def change_tree(self):
        """What happens between two backups."""
        (self.tree / "changed").write_bytes(self.rng.randbytes(300000))
        (self.tree / "large/text").write_bytes((self.tree / "large/text").read_bytes() + b"one more line\n")
        victim = next(path for path in sorted((self.tree / "small").rglob("*")) if path.is_file())
        victim.unlink()

    def lacks(self, command, versions):
        """Whether no client of this run has the command; counted as skipped then."""
        able = [version for version in self.versions if version not in versions]
        if not able:
            self.report.skip(f"{self.name}: {command}", "this client does not have it, or it is broken in it with whatever server")
        return not able

    def able(self, versions):
        """One of the clients that are none of these."""
        return self.rng.choice([version for version in self.versions if version not in versions])

    def nothing_left(self, repository):
        locks, unfinished = self.lock_files(repository), bed.staged_files(repository)
        self.expect(not locks, f"locks are left: {locks}")
        self.expect(not unfinished, f"unfinished files are left: {unfinished}")


class Borg2(Run):
    """The commands of Borg 2."""

    lock_files = staticmethod(bed.lock_files)

    encryption = [[mode] for mode in ENCRYPTION]
    keep_one = ["--keep-last", "1"]

    def url(self, repository, version=None):
        return f"ssh://{self.host}/{repository}"  # the path keeps its leading slash: two of them mean an absolute path

    def everything(self):
        """All commands in an order in which each has something to do."""
        source = self.place / "source"
        encryption = self.rng.choice(self.encryption)
        yield f"repo-create -e {' '.join(encryption)}"
        self.borg("repo-create", "-e", *encryption)
        yield "create"
        first = bed.fingerprint(source)
        self.borg("create", "--stats", "first", "tree")
        yield "create again, compressed"
        self.change_tree()
        second = bed.fingerprint(source)
        self.borg("create", "-C", "zstd,3", "--comment", "the second", "second", "tree")
        yield "create from standard input"
        self.borg("create", "--stdin-name", "stdin-data", "third", "-", input=b"from standard input\n" * 10000)
        yield "repo-list"
        listed = self.borg("repo-list", "--format", "{archive}{NL}")
        self.expect(listed.split() == ["first", "second", "third"], "wrong archives")
        self.borg("repo-list", "--json")
        yield "list"
        self.expect("tree/large/zeros" in self.borg("list", "first"), "a file is missing")
        self.borg("list", "--json-lines", "second")
        yield "info"
        self.expect("first" in self.borg("info", "first"), "no name")
        self.borg("info", "--json", "second")
        yield "repo-info"
        self.expect("Repository ID" in self.borg("repo-info"), "no id")
        yield "version"
        self.borg("version")
        yield "extract"
        self.same_tree("first", first)
        self.same_tree("second", second)
        self.expect(self.borg("extract", "--stdout", "third") == "from standard input\n" * 10000, "standard input came back changed")
        yield "extract --dry-run"
        self.borg("extract", "--dry-run", "first")
        yield "diff"
        self.expect("tree/changed" in self.borg("diff", "first", "second"), "the change is missing")
        yield "check"
        self.borg("check")
        yield "check --repository-only --max-duration"
        self.borg("check", "--repository-only", "--max-duration", "1")
        yield "check --verify-data"
        self.borg("check", "--verify-data", "-v")
        yield "check --repair"
        self.borg("check", "--repair")
        yield "rename"
        self.borg("rename", "second", "renamed")
        self.same_tree("renamed", second)
        yield "tag"
        self.borg("tag", "--add", "important", "first")
        self.expect("important" in self.borg("repo-list", "--format", "{archive} {tags}{NL}"), "the tag is missing")
        yield "delete and undelete"
        # By id: 2.0.0b21's `check --repair` has left a deleted archive of the same name.
        ids = dict(line.split() for line in self.borg("repo-list", "--format", "{archive} {id}{NL}").splitlines())
        self.borg("delete", f"aid:{ids['third'][:16]}")
        self.expect(ids["third"] not in self.borg("repo-list", "--format", "{id}{NL}"), "the deleted archive is still listed")
        self.expect("third" in self.borg("repo-list", "--deleted"), "the deleted archive is not listed")
        self.borg("undelete", f"aid:{ids['third'][:16]}")
        self.expect("third" in self.borg("repo-list"), "the undeleted archive is not listed")
        yield "recreate"
        self.borg("recreate", "-a", "renamed", "-e", "tree/changed", "-C", "lz4")
        self.expect("tree/changed" not in self.borg("list", "renamed"), "the file is still there")
        yield "prune"
        for _ in range(3):
            self.borg("create", "series", "tree/kinds")
        self.borg("prune", *self.keep_one, "--list", "-a", "series")
        self.expect(self.borg("repo-list", "--format", "{archive}{NL}").split().count("series") == 1, "not one is left")
        yield "compact"
        self.borg("compact", "-v", "--stats")
        yield "after compact: check, extract"
        self.borg("check", "-v")
        self.same_tree("first", first)
        yield "key export, import"
        self.borg("key", "export", str(self.place / "exported.key"))
        self.borg("key", "export", "--paper", str(self.place / "paper.key"))
        self.borg("key", "import", str(self.place / "exported.key"))
        yield "key change-passphrase"
        self.borg("key", "change-passphrase", environment={"BORG_NEW_PASSPHRASE": "another one"})
        self.environment["BORG_PASSPHRASE"] = "another one"
        self.borg("list", "first")
        if not self.lacks("repo-space", ["2.0.0b16"]):
            yield "repo-space"
            self.borg("repo-space", "--reserve", "3M")
            self.borg("repo-space")
            self.borg("repo-space", "--free")
        yield "with-lock"
        self.borg("with-lock", "true")
        yield "with-lock holds the lock"
        self.borg("with-lock", "sh", "-c", f"find {self.repository}/locks -maxdepth 1 -type f | grep -q .")
        yield "break-lock"
        self.borg("break-lock")
        if not self.lacks("repo-compress", ["2.0.0b22"]):
            yield "repo-compress"
            self.borg("repo-compress", "-C", "zstd,1", "--stats", version=self.able(["2.0.0b22"]))
            self.same_tree("first", first)
        yield from self.more_commands(first)
        yield "export-tar, import-tar"
        tar = self.place / "exported.tar"
        self.borg("export-tar", "--tar-format", "BORG", "first", str(tar))
        self.borg("import-tar", "from-tar", str(tar))
        self.same_tree("from-tar", first)
        yield "debug"
        if not self.lacks("debug dump-manifest", ["2.0.0b25"]):
            self.borg("debug", "dump-manifest", str(self.place / "manifest.json"), version=self.able(["2.0.0b25"]))
        self.borg("debug", "dump-archive", "first", str(self.place / "archive.json"))
        self.borg("debug", "dump-repo-objs", cwd=self.place.directory("dump"))
        yield "analyze"
        self.borg("analyze", "-a", "sh:*")
        yield "transfer"
        self.transfer(encryption)
        yield "create from several machines, alternating"
        for number in range(4):
            self.change_tree()
            self.borg("create", f"alternating-{number}", "tree", server=("ours", "original")[number % 2], environment={"BORG_HOST_ID": f"machine{number % 3}@1"})
        self.same_tree("alternating-3", bed.fingerprint(source))
        yield "delete all but the first, compact, verify"
        self.borg("delete", "-a", "sh:alternating-*")
        self.borg("compact")
        self.borg("check", "--verify-data")
        self.same_tree("first", first)
        yield "nothing left behind"
        self.nothing_left(self.repository)
        yield "the original finds no fault"
        self.borg("check", "--verify-data", "-v", server="original")
        self.expect("0 errors" in self.last and "Archive consistency check complete, no problems found" in self.last, "not clean")
        yield "repo-delete"
        self.borg("repo-delete")
        self.expect(not self.repository.exists(), "the repository is still there")

    def more_commands(self, first):
        """What only some kinds of clients have."""
        yield from ()

    def transfer(self, encryption):
        """Copies all archives to a second repository through the same servers."""
        target = self.repository.with_name("transferred")
        version = self.versions[-1]
        other = {"BORG_OTHER_PASSPHRASE": self.environment.get("BORG_PASSPHRASE", "correct horse"), "BORG_REPO": self.url(target, version)}
        source = ["--other-repo", self.url(self.repository, version)]
        self.borg("repo-create", *source, "-e", *encryption, environment=other, version=version)
        self.borg("transfer", *source, environment=other, version=version)
        self.borg("check", "--verify-data", environment=other, version=version)
        names = lambda **more: sorted(self.borg("repo-list", "--format", "{archive}{NL}", **more).split())
        self.expect(names() == names(environment=other), "not all archives were transferred")
        self.nothing_left(target)
        self.borg("repo-delete", environment=other, version=version)


class BorgREST(Borg2):
    """The same for the clients that speak REST."""

    servers = ["ours", "original", "mixed"]
    dialect = ["--rest"]
    keep_one = ["--keep-yearly", "1"]
    encryption = [[mode, "-i", hash] for mode in ("aes256-ocb", "chacha20-poly1305") for hash in ("sha256", "blake3")]

    def url(self, repository, version=None):
        if self.transport == "http":
            return f"{ANY_SERVER}{repository.name}"
        return f"{'ssh' if (version or self.versions[0]) >= '2.0.0b25' else 'rest'}://{self.host}/{repository}"

    def listen(self, options, repositories):
        """Starts the server under test, and notes how to start the originals, which are one for each repository."""
        if not options.listen or not options.url:
            bed.die("a run over http needs --listen and --url")
        self.servers = ["ours", "original"]
        self.host, self.originals, self.repositories = None, {}, repositories
        port = free_port()
        fill = functools.partial(str.format, root=repositories, port=port, place=self.place.path)
        self.base = fill(options.url).rstrip("/") + "/"
        self._start(shlex.split(fill(options.listen)), port)
        if options.ca:
            self.environment["REQUESTS_CA_BUNDLE"] = os.path.abspath(options.ca)

    def _start(self, command, port):
        log = open(self.place / f"listen-{port}.log", "wb")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        self.place.undo(lambda: (bed.kill_group(process), process.wait()))
        if bed.wait_until(lambda: process.poll() is not None or is_listening(port), 20, 0.05) is None or process.poll() is not None:
            bed.die(f"does not listen: {shlex.join(command)}\n{(self.place / f'listen-{port}.log').read_text()}")

    def _original_at(self, name, version):
        """The address of an original that serves one repository, started when it is first needed."""
        if (name, version) not in self.originals:
            self.originals[name, version] = port = free_port()
            program = bed.client_path(version).with_name("borgstore-server-rest")
            self._start([str(program), "--host", "127.0.0.1", "--port", str(port), "--backend", f"file://{self.repositories / name}"], port)
        return f"http://127.0.0.1:{self.originals[name, version]}"

    def addressed(self, arguments, environment, server, version):
        if self.transport != "http":
            return arguments, environment
        environment = {"BORG_REPO": self.url(self.repository), **environment}

        def real(text):
            if server == "ours":
                return text.replace(ANY_SERVER, self.base)
            return re.sub(re.escape(ANY_SERVER) + "([a-z]+)", lambda found: self._original_at(found[1], version), text)

        return [real(str(argument)) for argument in arguments], {key: real(value) for key, value in environment.items()}

    def more_commands(self, first):
        if not self.lacks("find", ["2.0.0b22"]):
            yield "find"
            self.expect("tree/large/zeros" in self.borg("find", "tree/large", version=self.able(["2.0.0b22"])), "a file is missing")
        if not self.lacks("copy", ["2.0.0b22", "2.0.0b23"]):
            yield "copy"
            self.borg("copy", "first", "copied", version=self.able(["2.0.0b22", "2.0.0b23"]))
            self.same_tree("copied", first)

    def more_servers(self, commands):
        """For each version a program that becomes ours or the original's, by turns decided in advance."""
        made = {}
        for version in self.versions:
            turns, count, program = (self.place / f"mixed-{version}{end}" for end in (".turns", ".count", ""))
            turns.write_text("".join(self.rng.choice([commands["ours"], commands[f"original-{version}"]]) + "\n" for _ in range(997)))
            count.write_text("")
            program.write_text(f'#!/bin/sh\nprintf . >>{count}\nexec "$(sed -n "$(($(wc -c <{count}) % 997 + 1))p" {turns})" "$@"\n')
            program.chmod(0o755)
            made[f"mixed-{version}"] = str(program)
        return made


class Borg1(Run):
    """The commands of Borg 1.x, on one repository, and each encryption mode on one of its own."""

    @staticmethod
    def lock_files(repository):
        return [path.name for path in repository.glob("lock*")]

    def url(self, repository, version=None):
        return f"ssh://{self.host}{repository}"

    def __init__(self, *arguments):
        super().__init__(*arguments)
        # Archives by 1.1 have no authentication of their own, which 1.2.9 and 1.4.5 would miss; recreate is "experimental" in 1.1.
        self.environment = {"BORG_WORKAROUNDS": "ignore_invalid_archive_tam", "BORG_RECREATE_I_KNOW_WHAT_I_AM_DOING": "YES",
                            "_BORG_BENCHMARK_CRUD_TEST": "YES"}

    def names(self, **more):
        return self.borg("list", "--format", "{archive}{NL}", **more).split()

    def everything(self):
        """All commands in an order in which each has something to do."""
        source = self.place / "source"
        for encryption in ENCRYPTION_1 if len(self.versions) == 1 else self.rng.sample(ENCRYPTION_1, 2):
            yield f"init -e {encryption}, create, extract, delete"
            self.mode(encryption)
        encryption = self.rng.choice(["repokey", "repokey-blake2"])
        yield f"init -e {encryption}"
        self.borg("init", "-e", encryption)
        yield "create"
        first = bed.fingerprint(source)
        self.borg("create", "--stats", "::first", "tree")
        yield "create again, compressed"
        self.change_tree()
        second = bed.fingerprint(source)
        self.borg("create", "-C", "zstd,3", "--comment", "the second", "::second", "tree")
        yield "create with checkpoints, from standard input"
        self.borg("create", "--checkpoint-interval", "1", "::third", "-", input=b"from standard input\n" * 10000)
        yield "list"
        self.expect(self.names() == ["first", "second", "third"], "wrong archives")
        self.expect("tree/large/zeros" in self.borg("list", "::first"), "a file is missing")
        self.borg("list", "--json-lines", "::second")
        yield "info"
        self.expect("first" in self.borg("info", "::first"), "no name")
        self.expect("Repository ID" in self.borg("info"), "no id")
        if not self.lacks("version", ["1.1.18", "1.2.9"]):
            yield "version"
            self.expect(re.search(r"1\.4\.\d+ / 1\.[124]\.", self.borg("version", version=self.able(["1.1.18", "1.2.9"]))), "no versions")
        yield "extract"
        self.same_tree("::first", first)
        self.same_tree("::second", second)
        self.expect(self.borg("extract", "--stdout", "::third") == "from standard input\n" * 10000, "standard input came back changed")
        yield "extract --dry-run"
        self.borg("extract", "--dry-run", "::first")
        yield "diff"
        self.expect("tree/changed" in self.borg("diff", "::first", "second"), "the change is missing")
        yield "check"
        self.borg("check")
        self.borg("check", "--archives-only")
        if not self.lacks("check --max-duration", ["1.1.18"]):
            yield "check --repository-only --max-duration"
            self.borg("check", "--repository-only", "--max-duration", "1", version=self.able(["1.1.18"]))
        yield "check --verify-data"
        self.borg("check", "--verify-data", "-v")
        yield "check --repair"
        self.borg("check", "--repair")
        self.same_tree("::first", first)
        yield "rename"
        self.borg("rename", "::second", "renamed")
        self.same_tree("::renamed", second)
        yield "recreate"
        self.borg("recreate", "::renamed", "-e", "tree/changed", "-C", "lz4", "--recompress", "always")
        self.expect("tree/changed" not in self.borg("list", "::renamed"), "the file is still there")
        yield "delete archive"
        self.borg("delete", "::third")
        self.expect("third" not in self.names(), "the deleted archive is still listed")
        yield "prune"
        for number in range(3):
            self.borg("create", f"::series-{number}", "tree/kinds")
        self.borg("prune", "--keep-last", "1", "--list", "--prefix" if self.versions == ["1.1.18"] else "-P", "series-")
        self.expect(self.names() == ["first", "renamed", "series-2"], "not one is left")
        if not self.lacks("compact", ["1.1.18"]):
            yield "compact"
            self.borg("compact", "-v", version=self.able(["1.1.18"]))
            self.borg("compact", "--cleanup-commits", "--threshold", "1", version=self.able(["1.1.18"]))
        yield "after compact: check, extract"
        self.borg("check", "-v")
        self.same_tree("::first", first)
        yield "key export, import"
        self.borg("key", "export", self.url(self.repository), str(self.place / "exported.key"))
        self.borg("key", "export", "--paper", self.url(self.repository), str(self.place / "paper.key"))
        self.borg("key", "export", "--qr-html", self.url(self.repository), str(self.place / "key.html"))
        self.borg("key", "import", self.url(self.repository), str(self.place / "exported.key"))
        yield "key change-passphrase"
        self.borg("key", "change-passphrase", environment={"BORG_NEW_PASSPHRASE": "another one"})
        self.environment["BORG_PASSPHRASE"] = "another one"
        self.borg("list", "::first")
        yield "with-lock"
        self.borg("with-lock", self.url(self.repository), "true")
        self.borg("with-lock", self.url(self.repository), "sh", "-c", f"test -d {self.repository}/lock.exclusive")
        yield "break-lock"
        (self.repository / "lock.exclusive").mkdir()
        (self.repository / "lock.exclusive/machine@2.1-0").write_bytes(b"")
        self.borg("break-lock")
        self.nothing_left(self.repository)
        yield "upgrade"
        self.borg("upgrade", "--tam", self.url(self.repository))
        if not self.lacks("upgrade --archives-tam", ["1.1.18"]):
            self.borg("upgrade", "--archives-tam", self.url(self.repository), version=self.able(["1.1.18"]))
        yield "export-tar"
        tar = self.place / "exported.tar"
        self.borg("export-tar", "::first", str(tar))
        self.expect(tar.stat().st_size > 3 << 20, "the file is too small")
        if not self.lacks("import-tar", ["1.1.18"]):
            yield "import-tar"
            self.borg("import-tar", "::from-tar", str(tar), version=self.able(["1.1.18"]))
            self.expect("tree/large/zeros" in self.borg("list", "::from-tar"), "a file is missing")
        yield "debug"
        self.borg("debug", "dump-manifest", self.url(self.repository), str(self.place / "manifest.json"))
        self.borg("debug", "dump-archive", "::first", str(self.place / "archive.json"))
        self.borg("debug", "dump-archive-items", "::series-2", cwd=self.place.directory("items"))
        self.borg("debug", "dump-repo-objs", self.url(self.repository), cwd=self.place.directory("dump"))
        self.borg("debug", "search-repo-objs", self.url(self.repository), "str:line 7 of")
        self.objects()
        yield "benchmark crud"
        self.borg("benchmark", "crud", self.url(self.repository), str(self.place.directory("crud")))
        yield "create from several machines, alternating"
        for number in range(3):
            self.change_tree()
            self.borg("create", f"::alternating-{number}", "tree", server=("ours", "original")[number % 2], environment={"BORG_HOST_ID": f"machine{number % 3}@1"})
        self.same_tree("::alternating-2", bed.fingerprint(source))
        yield "delete all but the first, verify"
        self.borg("delete", "--prefix" if self.versions == ["1.1.18"] else "-P", "alternating-", self.url(self.repository))
        self.borg("check", "--verify-data")
        self.same_tree("::first", first)
        yield "nothing left behind"
        self.nothing_left(self.repository)
        yield "the original finds no fault"
        self.borg("check", "--verify-data", "-v", server="original")
        self.expect("epository check, no problems found" in self.last and "Archive consistency check complete, no problems found" in self.last, "not clean")
        yield "delete repository"
        self.borg("delete", self.url(self.repository))
        self.expect(not self.repository.exists(), "the repository is still there")

    def mode(self, encryption):
        """A small life in one encryption mode, by one client: a key file is in its home."""
        target, version = self.repository.with_name(encryption), self.rng.choice(self.versions)
        there = {"version": version, "environment": {"BORG_REPO": self.url(target)}}
        self.borg("init", "-e", encryption, **there)
        self.borg("create", "::small", "tree/kinds", **there)
        self.expect("tree/kinds/modes" in self.borg("list", "::small", **there), "a file is missing")
        self.borg("extract", "--dry-run", "::small", **there)
        self.nothing_left(target)
        self.borg("delete", self.url(target), **there)
        self.expect(not target.exists(), "the repository is still there")

    def objects(self):
        """Single objects, put, counted, fetched and deleted."""
        version = self.rng.choice(self.versions)
        thing = self.place / "object"
        thing.write_bytes(b"one object")
        identity = "77" * 32
        put = ["debug", "put-obj", self.url(self.repository)]
        if not version.startswith("1.1"):
            self.borg(*put, identity, str(thing), version=version)
        else:  # the id is a hash that the client computes
            identity = re.search(r"[0-9a-f]{64}", self.borg(*put, str(thing), version=version))[0]
        self.borg("debug", "refcount-obj", self.url(self.repository), identity)
        self.borg("debug", "get-obj", self.url(self.repository), identity, str(self.place / "fetched"))
        self.expect((self.place / "fetched").read_bytes() == b"one object", "another object came back")
        self.borg("debug", "delete-obj", self.url(self.repository), identity)


def play(run):
    """Plays all steps; a failed one ends the run, because later ones build upon it."""
    steps = run.everything()
    name = next(steps)
    while name:
        try:
            following = next(steps, None)
        except bed.Failed as failure:
            run.report.fail(f"{run.name}: {name}", failure)
            return
        run.report.ok(f"{run.name}: {name}")
        name = following
    print(f"        {run.served['ours']} commands were served by ours, {run.served['original']} by the original")


def main():
    parser = bed.parser(__doc__, limit=2400)
    parser.add_argument("runs", nargs="*", default=RUNS, metavar="CLIENT/TRANSPORT", help=f"of {' '.join(RUNS)} (default: all)")
    parser.add_argument("-j", "--jobs", type=int, default=1, help="runs beside each other (%(default)s)")
    parser.add_argument("--listen", metavar="COMMAND", help="for http: starts the network server under test; {root}, {port} and {place} are filled in, "
                        "that is the directory of the repositories, a free port on 127.0.0.1, and a temporary directory")
    parser.add_argument("--url", help="for http: under which it serves repositories, such as http://127.0.0.1:{port}/")
    parser.add_argument("--ca", metavar="FILE", help="for http: the certificate to trust, where the URL is https")
    options = bed.parse(parser)
    for run in options.runs:
        if not re.fullmatch(r"(1[0-9.]+(\+1[0-9.]+)*|2[0-9b.]+(\+2[0-9b.]+)*)/(pipes|ssh|http)", run) or run.endswith("http") and run < "2.0.0b22":
            bed.die(f"not a run: {run}")
    report = bed.Report()

    def whole(name):
        kind = Borg1 if name.startswith("1.") else BorgREST if name >= "2.0.0b22" else Borg2
        run = kind(name, options, report)
        play(run)
        run.place.close()

    # A client and its server wait for each other: one run keeps one core busy.
    bed.run_beside_each_other([functools.partial(whole, name) for name in options.runs], threads=options.jobs)
    report.skip("mount", "FUSE is no part of this bed, and the clients are built without it")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
