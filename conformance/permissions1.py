#!/usr/bin/env python3
"""The modes of --permissions and --append-only over repositories of Borg 1.x: stock clients, and one that means harm.

Stock clients 1.1.18, 1.2.9 and 1.4.5 in each mode: what goes on, what is refused in one line, and what is on disk after it.
In the modes in which the log grows (no-delete, write-only, --append-only) every segment that was committed is still there,
byte for byte, as are config and README, and the nonce is not lower; in read-only nothing changes but locks.

The hostile client speaks the protocol itself and tries everything that the protocol has. After it an administrator goes back
to the transaction before it, as docs/permissions-borg1.md says, with stock Borg, and has every archive again.
"""

import os
import re
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

sys.dont_write_bytecode = True
import bed
import borg1

GROWING = {"no-delete": ("--permissions", "no-delete"), "write-only": ("--permissions", "write-only"), "append-only": ("--append-only",)}
MODES = {**GROWING, "read-only": ("--permissions", "read-only")}
SCENARIOS = bed.Scenarios()


def contents(repository):
    """Every file of a repository but its locks, {path: bytes}; directories end with a slash."""
    found = {}
    for folder, directories, names in os.walk(repository):
        relative = os.path.relpath(folder, repository)
        directories[:] = [name for name in directories if not name.startswith("lock.")]
        found[relative + "/"] = b""
        for name in names:
            if not name.startswith("lock."):
                found[os.path.join(relative, name)] = open(os.path.join(folder, name), "rb").read()
    return found


def last_transaction(repository):
    return int(borg1.auxiliary(repository, "index").suffix[1:])


def kept(repository):
    """What no client may change where the log only grows."""
    last = last_transaction(repository)
    found = {str(path): path.read_bytes() for path in borg1.segments(repository) if int(path.name) <= last}
    return {**found, **{name: (repository / name).read_bytes() for name in ("config", "README")}}


def nonce(repository):
    path = repository / "nonce"
    return int(path.read_text(), 16) if path.exists() else -1


class Bed:
    """A repository with archives, made without a restriction by a stock client, and a server with one."""

    def __init__(self, report, options, version, mode):
        self.name, self.mode, self.report = f"{version} {mode}", mode, report
        self.place = bed.Place("permissions1", options.keep)
        self.repository = self.place / "repository"
        self.program = borg1.under_test(self.place, options)
        self.original = borg1.Program(self.place, version, bed.client_path(version), version)
        self.free = borg1.Pipes(self.place, "free", self.program)
        self.limited = borg1.Pipes(self.place, "limited", self.program, *MODES[mode])
        self.client = borg1.Client(self.original, self.place)
        self.url = self.free.url(self.repository)
        self.source = self.place.directory("source")
        for number in range(20):
            (self.source / f"file {number}").write_bytes(os.urandom(20_000))
        self.must("init", "-e", "repokey", self.url)
        self.must("create", f"{self.url}::zero", ".")
        (self.source / "more").write_bytes(os.urandom(300_000))
        self.must("create", f"{self.url}::gone", ".")
        self.must("create", f"{self.url}::one", ".")
        self.must("delete", f"{self.url}::gone")
        self.first = bed.fingerprint(self.source)

    def close(self):
        self.place.close()

    def check(self, what, condition, detail=""):
        return self.report.check(f"{self.name}: {what}", condition, detail)

    def run(self, *words, server=None, client=None, cwd=None):
        return (client or self.client).run(*words, rsh=(server or self.limited).rsh, cwd=cwd or self.source)

    def must(self, *words, **more):
        outcome = self.run(*words, server=self.free, **more)
        if outcome.code != 0:
            raise bed.Failed(str(outcome))
        return outcome

    def goes_on(self, *words, code=0, **more):
        outcome = self.run(*words, **more)
        self.check(f"{self.shown(words)} goes on", outcome.code == code and "Permission denied" not in outcome.output, outcome)
        return outcome

    def refused(self, *words, **more):
        """The command fails with one line that gives the reason, and changes nothing but locks."""
        before = contents(self.repository)
        outcome = self.run(*words, **more)
        lines = [line for line in outcome.output.splitlines() if "Permission denied" in line]
        self.check(f"{self.shown(words)} is refused in one line",
                   outcome.code not in (0, 1) and len(lines) == 1 and "Traceback" not in outcome.output, outcome)
        changed = bed.difference({name: hash(data) for name, data in before.items()},
                                 {name: hash(data) for name, data in contents(self.repository).items()})
        # A session that was admitted leaves, at most, what it had not committed.
        self.check(f"{self.shown(words)} changes nothing", not changed, changed)
        self.check(f"{self.shown(words)} leaves no lock", not [name for name in borg1.leftovers(self.repository)], borg1.leftovers(self.repository))
        return lines

    def shown(self, words):
        return " ".join(map(str, words)).replace(self.url, "REPO")

    def extracts(self, archive, expected, server=None):
        target = self.place.directory(f"extracted-{time.monotonic_ns()}")
        outcome = self.run("extract", f"{self.url}::{archive}", server=server, cwd=target)
        found = bed.fingerprint(target)
        self.check(f"{archive} is extracted identically", outcome.code == 0 and found == expected,
                   f"{outcome}\n{bed.difference(expected, found)}")
        shutil.rmtree(target)

    def keeps(self, what, before, low):
        after = {name: (self.repository / name).read_bytes() if (self.repository / name).exists() else None for name in before}
        changed = [name for name in before if after[name] != before[name]]
        self.check(f"{what}: every committed byte is there, and config and README", not changed, changed)
        self.check(f"{what}: the nonce is not lower", nonce(self.repository) >= low, f"{low} -> {nonce(self.repository)}")

    def documented(self, heading, transaction, **environment):
        """Runs the commands that docs/permissions-borg1.md has below a heading, with this repository's names in them."""
        text = (bed.ROOT / "docs/permissions-borg1.md").read_text()
        script = "\n".join(re.findall(r"```sh\n(.*?)```", text[text.index(f"## {heading}\n") :].split("\n## ")[0], re.DOTALL))
        script = script.replace("/srv/borg/alice/repo", str(self.repository)).replace("/srv/borg/alice/then", str(self.place / "then"))
        script = script.replace("transaction=42", f"transaction={transaction}")
        client = self.client.environment
        done = subprocess.run(["sh", "-euc", script], capture_output=True, text=True, timeout=120, cwd=self.place.path, env={
            **client, "PATH": f"{Path(self.original.path).parent}:{os.environ['PATH']}", "LANG": "C.UTF-8", **environment})
        if done.returncode:
            raise bed.Failed(f"{heading}: {done.stdout}{done.stderr}")
        return done.stdout

    def go_back(self, transaction):
        shown = self.documented("Review before compacting", transaction)
        self.check("the documented look at an earlier transaction shows its archives, and leaves the repository",
                   [line.split()[0] for line in shown.splitlines()] == ["zero", "one"] and not (self.place / "then").exists(), shown)
        self.documented("Go back", transaction)

    def is_back(self, archives=("zero", "one")):
        """The repository is what it was, to a stock Borg without any server."""
        local = lambda *words, **more: self.client.run(*words, **more)
        listed = local("list", "--short", self.repository)
        self.check("afterwards, gone back: the archives are listed", set(archives) == {line for line in listed.output.splitlines() if line and " " not in line}, listed)
        verified = local("check", "--verify-data", self.repository)
        self.check("afterwards, gone back: check --verify-data finds no fault", verified.code == 0, verified)
        target = self.place.directory("back")
        outcome = local("extract", f"{self.repository}::one", cwd=target)
        self.check("afterwards, gone back: what was backed up is extracted identically",
                   outcome.code == 0 and bed.fingerprint(target) == self.first, outcome)
        again = local("create", f"{self.repository}::later", ".", cwd=self.source)
        self.check("afterwards, gone back: backups go on", again.code == 0, again)


# --- stock clients ----------------------------------------------------------------------------------------------------


def with_checkpoints(b):
    """A backup that takes longer than its checkpoint interval: it commits in between, and deletes what it committed."""
    for number in range(4):
        (b.source / f"slow {number}").write_bytes(os.urandom(1_500_000))
    before = last_transaction(b.repository)
    b.goes_on("create", "--checkpoint-interval", "1", "-C", "lzma,9", f"{b.url}::slow", ".")
    log = (b.repository / "transactions").read_text() if (b.repository / "transactions").exists() else ""
    later = [int(number) for number in re.findall(r"transaction (\d+),", log) if int(number) > before]
    b.check("create has made checkpoints", len(later) > 1, log)
    return bed.fingerprint(b.source)


@SCENARIOS
def stock_no_delete(report, options, versions=borg1.ORIGINALS):
    """no-delete: everything that clients do every day, and nothing gets lost."""
    for version in versions:
        with bed.closing(Bed(report, options, version, "no-delete")) as b:
            before, low, transaction = kept(b.repository), nonce(b.repository), last_transaction(b.repository)
            third = with_checkpoints(b)
            b.goes_on("list", b.url)
            b.goes_on("info", f"{b.url}::one")
            b.goes_on("rename", f"{b.url}::zero", "null")
            b.goes_on("recreate", "-C", "zlib,1", "--comment", "x", f"{b.url}::null")
            b.goes_on("delete", f"{b.url}::null")
            b.goes_on("prune", "--keep-last", "1", b.url)
            if version != "1.1.18":
                b.goes_on("compact", "--cleanup-commits", "--threshold", "0", b.url)
            b.goes_on("check", b.url)
            b.extracts("slow", third)
            b.goes_on("break-lock", b.url)
            for words in (("delete", b.url), ("check", "--repair", b.url), ("key", "change-passphrase", b.url),
                          ("init", "-e", "none", b.free.url(b.place / "another"))):
                b.refused(*words)
            b.keeps("after all of it", before, low)
            b.go_back(transaction)
            b.is_back()


@SCENARIOS
def stock_write_only(report, options, versions=borg1.ORIGINALS):
    """write-only: backups of one client go on; who would have to read is told once what to do."""
    for version in versions:
        with bed.closing(Bed(report, options, version, "write-only")) as b:
            before, low = kept(b.repository), nonce(b.repository)
            b.must("info", b.url)  # brings the cache up to date
            third = with_checkpoints(b) if version == versions[-1] else None
            b.goes_on("create", f"{b.url}::three", ".")
            for words in (("extract", f"{b.url}::one"), ("list", f"{b.url}::one"), ("delete", f"{b.url}::one"), ("check", b.url),
                          ("prune", "--keep-last", "1", b.url), ("rename", f"{b.url}::one", "uno"), ("info", f"{b.url}::one"),
                          ("delete", b.url), ("check", "--repair", b.url), ("key", "change-passphrase", b.url)):
                b.refused(*words, cwd=b.place.directory("nothing"))
            other = borg1.Client(b.original, b.place, BORG_BASE_DIR=str(b.place.directory("other home")))
            lines = b.refused("create", f"{b.url}::four", ".", client=other)
            b.check("a client whose chunks cache is out of sync is told so", any("chunks cache" in line for line in lines), lines)
            b.must("info", b.url, client=other)
            b.goes_on("create", f"{b.url}::four", ".", client=other)
            b.keeps("after all of it", before, low)
            b.extracts("one", b.first, server=b.free)
            if third:
                b.extracts("slow", third, server=b.free)


@SCENARIOS
def stock_read_only(report, options, versions=borg1.ORIGINALS):
    """read-only: everything is read, also without index and hints, and nothing is written."""
    for version in versions:
        with bed.closing(Bed(report, options, version, "read-only")) as b:
            for without in ((), ("index",), ("hints", "integrity")):
                for kind in without:
                    borg1.auxiliary(b.repository, kind).unlink()
                before = contents(b.repository)
                b.goes_on("list", b.url)
                b.goes_on("info", f"{b.url}::one")
                b.goes_on("check", "--repository-only", b.url)
                b.extracts("one", b.first)
                b.check(f"reading changes nothing (without {without})", contents(b.repository) == before)
            for words in (("create", f"{b.url}::two", "."), ("delete", f"{b.url}::one"), ("rename", f"{b.url}::one", "uno"),
                          ("prune", "--keep-last", "1", b.url), ("delete", b.url), ("check", "--repair", b.url),
                          ("key", "change-passphrase", b.url), ("init", "-e", "none", b.free.url(b.place / "another")),
                          # Encrypts what it does not store: it wants nonces.
                          ("check", b.url)):
                b.refused(*words)
            if version != "1.1.18":
                b.refused("compact", b.url)


# --- a client that means harm -----------------------------------------------------------------------------------------


class Hostile:
    """Speaks the protocol, knows what a backup client knows, and notes what succeeds that should not."""

    def __init__(self, b, ids):
        self.b, self.ids = b, ids
        self.pack = bed.load_msgpack().Packer(use_bin_type=False).pack

    def session(self, *arguments, opens=True, environment={}, **how):
        server = borg1.Server1(self.b.program, *MODES[self.b.mode], *arguments, environment=environment)
        if opens:
            server.open(self.b.repository, **how)
        return server

    def refused(self, what, answer, *classes):
        allowed = classes or ("PermissionDenied",)
        self.b.check(f"hostile: {what} is refused", answer.failed and answer.error in allowed, answer)

    def tuple(self, server, method, *arguments):
        """A request in the form of clients before 1.1; the error's class, or None."""
        server.number += 1
        server.send_raw(self.pack([1, server.number, method, list(arguments)]))
        while True:
            for message in server._unpacker:
                return message[2].decode() if message[2] else None
            if not server._take():
                raise bed.Hangup(f"the server hung up at {method}")


def what_a_client_knows(b):
    """The ids of all objects, which it might have from better times; the manifest's is no secret."""
    server = borg1.Server1(b.program)
    server.open(b.repository, exclusive=False)
    ids = [id for id in server.must("list", limit=100000, marker=None) if id != borg1.MANIFEST]
    server.end()
    return ids


def attack(h):
    """Everything that the protocol has, in the order of an attacker's hopes."""
    b, mode = h.b, h.b.mode
    grows, path = mode in GROWING, str(b.repository)
    server = h.session()
    # Garbage over everything, everything deleted, and whatever might remove it for good.
    thresholds = [float("nan"), float("inf"), float("-inf"), -1.0, 0.0, 0.1, 1e308]
    for number, threshold in enumerate(thresholds):
        answers = [server.call("put", id=id, data=os.urandom(100)) for id in [*h.ids, borg1.MANIFEST][:: 1 + number]]
        answers += [server.call("delete", id=id) for id in h.ids[::2]]
        answers += [server.call("commit", save_space=True, compact=True, threshold=threshold, cleanup_commits=True)]
        wrong = [answer for answer in answers if not (answer.error in (None, "ObjectNotFound") if grows else answer.error == "PermissionDenied")]
        b.check(f"hostile: overwriting, deleting, commit(threshold={threshold}) {'is logged' if grows else 'is refused'}", not wrong, wrong[:3])
    h.refused("destroy", server.call("destroy"))
    h.refused("check(repair)", server.call("check", repair=True))
    if mode != "append-only":
        h.refused("check(max_duration)", server.call("check", max_duration=1))
        for key in (b"ANOTHER", b"", b"A\rappend_only = 0", b"x" * (1 << 20)):
            h.refused(f"save_key of {len(key)} bytes", server.call("save_key", keydata=key), "PermissionDenied")
    else:
        for key in (b"ANOTHER", b"A\rappend_only = 0"):
            h.refused(f"save_key of {len(key)} bytes", server.call("save_key", keydata=key))
    h.refused("break_lock", server.call("break_lock"))
    current = server.must("get_free_nonce")
    for next in (0, current - 1):
        h.refused(f"a nonce of {next}", server.call("commit_nonce_reservation", next_unreserved=next, start_nonce=current))
    h.refused("a nonce from a wrong start", server.call("commit_nonce_reservation", next_unreserved=5, start_nonce=None), "Exception",
              "PermissionDenied")
    raised = server.call("commit_nonce_reservation", next_unreserved=current + 7, start_nonce=current)
    b.check(f"hostile: a higher nonce is {'stored' if grows else 'refused'}", raised.failed != grows, raised)
    full = server.call("check", repair=False)
    if mode == "write-only":
        h.refused("check", full)
        for method, arguments in (("get", {"id": h.ids[0]}), ("list", {"limit": 10}), ("scan", {"limit": 10})):
            h.refused(method, server.call(method, **arguments))
    else:
        b.check("hostile: a plain check is answered", not full.failed, full)
    # Roll back after a commit, and commit after a roll back.
    for method, arguments in (("put", {"id": h.ids[0], "data": b"x"}), ("rollback", {}), ("commit", {}), ("delete", {"id": bytes(31) + b"!"}),
                              ("rollback", {}), ("rollback", {})):
        server.call(method, **arguments)
    # What no id is, and no number.
    for id in (b"", bytes(31), bytes(33), bytes(1 << 20), None, 7):
        answers = [server.call(method, **{"id": id, "data": b"", **more}) for method, more in (("put", {}), ("delete", {}), ("get", {}))]
        b.check(f"hostile: an id of {len(id) if isinstance(id, bytes) else id} is refused", all(answer.failed for answer in answers), answers)
    for limit in (-1, 1 << 62, (1 << 64) - 1, "x", 1.5):
        server.call("list", limit=limit, marker=None)
        server.call("scan", limit=limit, marker=None)
    # Other doors to the same room.
    for where in ("", "/data/9", "/lock.exclusive", "/index.99", "/../another"):
        h.refused(f"open(create) of REPO{where}", server.call("open", path=path + where, create=True, make_parent_dirs=True, exclusive=True),
                  "AlreadyExists", "PermissionDenied", *(["ParentPathDoesNotExist"] if mode == "append-only" else []))
        if mode == "append-only" and where == "/data/9":
            break  # repositories elsewhere may be made in this mode
    again = server.call("open", path=path, create=False, append_only=False, exclusive=True, lock_wait=1)
    b.check("hostile: a second open is no way out", not again.failed and server.call("destroy").error == "PermissionDenied", again)
    server.end()

    # The form of older clients.
    server = h.session(opens=False)
    h.tuple(server, "negotiate", 2)
    opened = h.tuple(server, "open", path, False, 1, True, True, False)
    b.check("hostile, tuples: open is answered", opened is None, opened)
    for method, arguments in (("destroy", ()), ("check", (True, False)), ("save_key", (b"ANOTHER",)), ("break_lock", ()),
                              ("commit_nonce_reservation", (1, None))):
        error = h.tuple(server, method, *arguments)
        b.check(f"hostile, tuples: {method} is refused", error in ("PermissionDenied", "Exception"), error)
    for method, arguments in (("put", (borg1.MANIFEST, b"garbage")), ("delete", (h.ids[0],)), ("commit", (True,)), ("rollback", ())):
        error = h.tuple(server, method, *arguments)
        good = error in (None, "ObjectNotFound") if grows or method == "rollback" else error == "PermissionDenied"
        b.check(f"hostile, tuples: {method} is {'logged' if grows else 'refused'}", good, error)
    server.end()

    # Without a lock, and against those of others.
    holder = h.session()
    free = h.session(lock=False)
    for method, arguments in (("put", {"id": h.ids[0], "data": b"y"}), ("delete", {"id": h.ids[0]}),
                              ("commit_nonce_reservation", {"next_unreserved": 1 << 40, "start_nonce": nonce(b.repository)})):
        h.refused(f"{method} without a lock beside a writer", free.call(method, **arguments), "LockTimeout", "PermissionDenied")
    h.refused("breaking a writer's lock", free.call("break_lock"))
    late = h.session(opens=False)
    late.negotiate()
    h.refused("a second writer", late.call("open", path=path, exclusive=True, lock_wait=0), "LockTimeout")
    holder.end()
    alone = [free.call("put", id=h.ids[0], data=b"y"), free.call("commit"), free.call("check", repair=True), free.call("destroy")]
    expected = [None, None, "PermissionDenied", "PermissionDenied"] if grows else ["PermissionDenied"] * 4
    b.check("hostile: without a lock it is no other", [answer.error for answer in alone] == expected, alone)
    free.end()
    late.end()

    # Sessions that are killed over and over.
    for _ in range(4):
        server = h.session()
        server.call("put", id=os.urandom(32), data=bytes(1 << 20))
        server.call("put", id=borg1.MANIFEST, data=b"garbage")
        server.kill()
        server.close_pipes()
    size = sum(len(data) for data in contents(b.repository).values())
    b.check("hostile: killed sessions leave no more than one of them", size < 8 << 20, size)

    # Commits of nothing, which no quota counts.
    server = h.session()
    server.call("delete", id=b"?" * 32)
    server.call("commit")
    files = len(contents(b.repository))
    for _ in range(10):
        server.call("delete", id=b"?" * 32)
        server.call("commit")
    b.check("hostile: commits of nothing take no room", len(contents(b.repository)) <= files, f"{files} -> {len(contents(b.repository))}")
    server.end()

    # What the client would like the server's options to be.
    server = h.session(environment={"SSH_ORIGINAL_COMMAND": "borg serve --permissions=all --storage-quota=0 --umask=000"})
    h.refused("destroy with options of one's own", server.call("destroy"))
    server.end()


def hostile(report, options, version, mode):
    with bed.closing(Bed(report, options, version, mode)) as b:
        # A partial check has left its mark in the config.
        borg1.configure(b.repository, last_segment_checked=1)
        h = Hostile(b, what_a_client_knows(b))
        everything, before, low, transaction = contents(b.repository), kept(b.repository), nonce(b.repository), last_transaction(b.repository)
        if mode == "append-only":  # here partial checks are the client's to ask for
            before.pop("config")
        attack(h)
        if mode == "read-only":
            found = contents(b.repository)
            b.check("hostile: nothing has changed but locks", found == everything,
                    bed.difference({name: len(data) for name, data in everything.items()}, {name: len(data) for name, data in found.items()}))
        else:
            b.keeps("hostile", before, low)
            b.check("hostile: the log of transactions tells the attacker's", (b.repository / "transactions").exists())
            b.go_back(transaction)
        b.is_back()


for one_version, one_mode in (("1.4.5", "no-delete"), ("1.2.9", "write-only"), ("1.1.18", "append-only"), ("1.4.5", "read-only")):
    SCENARIOS[f"hostile_{one_mode.replace('-', '_')}"] = partial(hostile, version=one_version, mode=one_mode)


@SCENARIOS
def quota(report, options):
    """A quota that is the server's: many sessions, overwrites and rollbacks do not get past it; nor does a creation."""
    limit = 10_000_000
    with bed.closing(Bed(report, options, "1.4.5", "append-only")) as b:
        stored = lambda: sum(path.stat().st_size for path in borg1.segments(b.repository))
        arguments = ("--storage-quota", str(limit))
        h = Hostile(b, what_a_client_knows(b))
        refusals = 0
        for number in range(12):
            server = h.session(*arguments)
            for index in range(4):
                answer = server.call("put", id=h.ids[0] if index % 2 else os.urandom(32), data=os.urandom(700_000))
                refusals += answer.error == "StorageQuotaExceeded"
            if number % 3 == 0:
                server.call("rollback")
            server.call("commit")
            if number % 3 == 1:
                server.kill()
                server.close_pipes()
            else:
                server.end()
        b.check("quota: sessions without end get no further than the quota", refusals and stored() < limit + 100_000, f"{refusals}, {stored()}")
        server = h.session(*arguments, environment={"SSH_ORIGINAL_COMMAND": "borg serve --storage-quota=0"})
        answer = server.call("put", id=os.urandom(32), data=os.urandom(limit))
        h.refused("a quota of one's own", answer, "StorageQuotaExceeded")
        server.end()
        other = b.place / "other"
        server = h.session(*arguments, opens=False)
        server.negotiate()
        server.must("open", path=str(other), create=True, exclusive=True, lock_wait=1)
        h.refused("a quota at creation", server.call("put", id=bytes(32), data=bytes(limit)), "StorageQuotaExceeded")
        server.end()
        b.check("quota: it is in the new repository's config", f"storage_quota = {limit}\n" in (other / "config").read_text())


def main():
    parser = bed.parser(__doc__, limit=280)
    parser.add_argument("--jobs", type=int, default=2, metavar="N", help="scenarios beside each other (%(default)s)")
    SCENARIOS.add_argument(parser)
    options = bed.parse(parser)
    report = bed.Report()
    bed.run_beside_each_other([partial(scenario, report, options) for scenario in SCENARIOS.chosen(options)], options.jobs)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
