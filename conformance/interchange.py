#!/usr/bin/env python3
"""Borg 1.x repositories that the originals and the server under test serve in turn, and that notice nothing of it.

`objects` speaks the protocol: sessions of random transactions (put, delete, get, manifest, nonce, key; commit with or
without compaction, rollback, hangup), served by the server under test and by the originals 1.1.18, 1.2.9 and 1.4.5 in
turn. Processes are killed with SIGKILL at random moments, in particular during commit, compaction and recovery, and where
strace may trace also at the N-th call of a kind; between sessions index, hints and integrity get lost, truncated, emptied
or changed. After each session both sides list, count, read and check everything: acknowledged commits are there,
transactions without a commit are not, and where a kill hit the commit itself the repository is in the one or the other
state, whole.

`archives` does it with stock clients of those versions in turn: create, also with checkpoints, prune, compact, check, delete,
rename, recreate, change-passphrase, with-lock; client or server killed, client interrupted, files damaged. After each step
the archives are listed and one is compared with what was backed up; every few steps all are, and the original's local check
and the check through the server under test find nothing.

In both, nobody warns of what somebody else has left, and neither locks nor temporary files stay. Everything random follows
from --seed, except for the moments of kills. --server may be an original: what fails then is the original's own.
All versions read what all others write, also with authenticated manifest and archives (TAM), so all are mixed freely, but for
two faults of 1.1.18 that the originals show among themselves: see FORGETFUL and NOT_BY_1_1.
"""

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import bed
import borg1

scenario = bed.Scenarios()


def can_trace():
    strace = shutil.which("strace")
    return strace and not subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode


# A 1.1 server forgets where superseded objects are: its hints have no shadow index, neither for what it deletes nor for what
# others have deleted or overwritten before. Where it rebuilds an index, or its commit does not compact, and an object that was
# overwritten before is deleted later, a later version drops both DELETE entries in compaction, because it knows of no older
# PUT; that one comes back with the next index that is built from the segments. 1.1.18 and 1.4.5 do this without any other
# server. So here 1.1 serves what adds, and its client everything; and once anything was superseded, index and hints that a
# 1.1 server may have written are removed, which a repository survives in all versions: the next one finds them anew, whole.
FORGETFUL = "1.1.18"


# --- objects ----------------------------------------------------------------------------------------------------------


class State:
    """What a repository is expected to hold."""

    def __init__(self, objects=(), nonce=None, key=b""):
        self.objects, self.nonce, self.key = dict(objects), nonce, key

    def copy(self):
        return State(self.objects, self.nonce, self.key)


# Calls at which a traced server is killed: those that a commit, a compaction or a recovery consists of.
CALLS = ("fsync", "fdatasync", "rename,renameat,renameat2", "unlink,unlinkat", "write,writev,pwrite64,pwritev", "openat", "close",
         "mkdir,mkdirat,rmdir")  # fmt: skip
ENDS = {"commit": 58, "rollback": 7, "hang up": 6, "kill": 7, "kill in commit": 14, "drop in commit": 3, "terminate": 2, "trace": 14}
DAMAGES = ("remove", "empty", "truncate", "change")


class Objects:
    """One repository, its model, and the sessions upon it."""

    def __init__(self, options, report):
        self.options, self.report, self.rng = options, report, random.Random(f"objects {options.seed}")
        self.place = bed.Place("interchange", options.keep)
        self.repository = self.place / "repository"
        self.ours, self.originals = borg1.under_test(self.place, options), borg1.originals(self.place)
        # Not from the beginning, so that at first hints of 1.1 are read by all others.
        self.superseding = self.forgotten = False
        self.possible = [State()]  # what is there is one of these
        self.turn, self.durations, self.story = 0, {}, []
        self.counts = dict.fromkeys(("operations", "sessions", "commits", "kills in commit", "traced kills", "damages", "recoveries"), 0)
        self.excused = False  # whether a kill in the middle of compaction may have left what the format cannot tell
        self.tracing = can_trace()

    def check(self, what, condition, detail=""):
        if not condition:
            raise bed.Failed(f"{what}\n{detail}\nlast steps:\n" + "\n".join(self.story[-12:]))

    def next_program(self):
        """Ours and an original in turn."""
        self.turn += 1
        return self.ours if self.turn % 2 else self.rng.choice(self.originals)

    def session(self, program, *, exclusive=True, wrapper=(), dialect=None):
        self.counts["sessions"] += 1
        server = self.serve(program, wrapper=wrapper, dialect=dialect or self.rng.choice([(1, 1, 18), (1, 2, 9), (1, 4, 5)]))
        try:
            server.open(self.repository, exclusive=exclusive)
            self.greet(server)
        except (bed.Hangup, bed.Failed):
            server.kill()
            raise
        return server

    def greet(self, server):
        """Every client reads manifest and key first; and an original that has to recover its index loses what is written first
        if nothing was read before."""
        manifest = server.must("get", id=borg1.MANIFEST)
        self.check(f"{server.program} has the last manifest", manifest in [state.objects[borg1.MANIFEST] for state in self.possible], server.said())
        server.must("load_key")

    def finish(self, server, code=0):
        ended = server.end()
        self.check(f"{server.program} ends with {code}", ended == code, f"exit code {ended}\n{server.said()[-800:]}")
        self.listen(server)

    def listen(self, server, disturbed=False):
        """Nobody may complain of what another one has left, nor speak of a recovery when nothing was damaged."""
        said = server.said()
        found = borg1.COMPLAINTS.search(said)
        if disturbed and server.program.version:
            found = None  # an original prints its own stack when it is ended or its client is gone
        if found and self.excused and found[0] == "not found, but listed":
            found = None
        self.check(f"{server.program} has nothing to complain of", not found, said[-2000:])
        if borg1.RECOVERIES.search(said):
            self.counts["recoveries"] += 1
            self.check(f"{server.program} recovers only what was damaged, or what a kill left", self.damaged, said[-2000:])

    def serve(self, program, **more):
        """A server process, after which those of 1.1 are not to be relied on."""
        self.forget()
        self.forgotten = program.version == FORGETFUL and self.superseding
        return borg1.Server1(program, **more)

    def forget(self):
        """Has the next writer find hints anew that 1.1 may have written, as FORGETFUL explains."""
        if self.forgotten and borg1.forget_hints(self.repository):
            self.damaged = True
        self.forgotten = False

    def hints(self):
        """Which file the newest hints are, so that it is seen when somebody writes them anew."""
        path = borg1.auxiliary(self.repository, "hints")
        status = path.stat() if path else None
        return status and (path.name, status.st_ino, status.st_mtime_ns)

    def create(self):
        """The first transaction is committed in peace: what remains of an aborted one stops every original (W8)."""
        program = self.next_program()
        self.damaged = False
        self.killed = False  # whether a killed process may have left new index files, and nobody came who removes them
        server = borg1.Server1(program)
        server.open(self.repository, create=True)
        server.must("put", id=borg1.MANIFEST, data=b"manifest", wait=True)
        server.must("commit", save_space=False, compact=False)
        self.finish(server)
        self.possible = [State({borg1.MANIFEST: b"manifest"})]
        borg1.configure(self.repository, segments_per_dir=self.rng.choice([5, 20, 1000]),
                        max_segment_size=self.rng.choice([20_000, 200_000, 524288000]))

    # One transaction, composed first and then sent without waiting, as clients do.

    def compose(self, state, program):
        """Requests with the answers expected; `state` becomes what it is after them.

        A 1.1 server gets no deletions, as FORGETFUL explains.
        """
        rng, requests = self.rng, []
        superseding = self.superseding and program.version != FORGETFUL
        for _ in range(rng.choice([1, 3, 8, 20, 60])):
            known = [key for key in state.objects if key != borg1.MANIFEST]
            kind = rng.choices(["new", "overwrite", "delete", "get", "missing"], [45, 15, 20 if len(known) < 250 else 60, 12, 3])[0]
            if kind in ("overwrite", "delete") and not superseding:
                kind = "new" if len(known) < 400 else "get"
            if kind == "new" or not known:
                # Some ids begin alike, so that they compete for places in the index.
                key = (rng.choice([b"\0\0\0\1", b"\7\4\0\0", b"\xff\xff\xff\xff"]) if rng.random() < 0.3 else rng.randbytes(4)) + rng.randbytes(28)
                state.objects[key] = self.data()
                requests.append(("put", {"id": key, "data": state.objects[key]}, None))
            elif kind == "overwrite":
                key = rng.choice(known)
                state.objects[key] = self.data()
                requests.append(("put", {"id": key, "data": state.objects[key]}, None))
            elif kind == "delete":
                key = rng.choice(known)
                del state.objects[key]
                requests.append(("delete", {"id": key}, None))
            elif kind == "get":
                key = rng.choice(known)
                requests.append(("get", {"id": key}, state.objects[key]))
            else:
                requests.append((rng.choice(["get", "delete"]), {"id": b"\3" * 32}, "ObjectNotFound"))
        if rng.random() < 0.9 or not any(method != "get" and expected is None for method, _, expected in requests):
            state.objects[borg1.MANIFEST] = rng.randbytes(rng.randrange(1, 300))
            requests.append(("put", {"id": borg1.MANIFEST, "data": state.objects[borg1.MANIFEST], "wait": True}, None))
        return requests

    def data(self):
        return self.rng.randbytes(self.rng.choice([0, 1, 50, 50, 500, 500, 5000, 60000]))

    def commit_arguments(self, dialect):
        if dialect < (1, 2):
            return {"save_space": False}
        return {"save_space": False, "compact": self.rng.random() < 0.5, "threshold": self.rng.choice([0.1, 0.1, 0.0, 0.5]),
                "cleanup_commits": self.rng.random() < 0.2}  # fmt: skip

    def play(self, server, requests, stop_after=None):
        """Sends requests 30 ahead and compares answers; with `stop_after`, returns once that many have come."""
        expected, answered = {}, 0
        pending = list(reversed(requests))
        while expected or pending:
            while pending and len(expected) < 30:
                method, arguments, answer = pending.pop()
                expected[server.send(method, **arguments)] = method, arguments, answer
                self.counts["operations"] += 1
            if stop_after is not None and answered >= stop_after:
                return
            answer = server.read()
            method, arguments, wanted = expected.pop(answer.number)
            answered += 1
            right = answer.error == wanted if isinstance(wanted, str) else not answer.failed and answer.value == wanted
            self.check(f"{server.program} answers {method} rightly", right, f"{arguments['id'].hex()}: {str(answer)[:300]}\n{server.said()[-800:]}")

    def kill(self, server, number=signal.SIGKILL):
        server.kill(number)
        self.killed = True

    def settle(self, state):
        self.possible = [state]
        self.killed = False  # every commit removes what is of no use
        self.counts["commits"] += 1

    def write(self, program):
        """A session that ends in one of the ways of ENDS, after up to four transactions."""
        end = self.rng.choices(list(ENDS), ENDS.values())[0]
        if end == "trace":
            return self.traced(program)
        server = self.session(program)
        self.story.append(f"{program} for {server.dialect}: {end}")
        before = self.possible[0]
        for _ in range(self.rng.choice([0, 1, 3, 6])):
            before = self.transaction(server, before)
        if self.rng.random() < 0.2:
            self.side_values(server, before)
        after = before.copy()
        requests = self.compose(after, server.program)
        if end == "kill":
            self.play(server, requests, stop_after=self.rng.randrange(len(requests) + 1))
            time.sleep(self.rng.random() * 0.003)
            self.kill(server)
            return self.listen(server)
        self.play(server, requests)
        arguments = self.commit_arguments(server.dialect)
        compacting = arguments.get("compact", True)
        if end == "commit":
            started = time.monotonic()
            server.must("commit", **arguments)
            self.durations[program, compacting] = time.monotonic() - started
            self.settle(after)
        elif end == "rollback":
            server.must("rollback")
            # 1.1 goes on writing into the segment that it has just removed, and loses what it commits then; its own clients
            # end their session after a rollback.
            if self.rng.random() < 0.5 and str(program) != "1.1.18":
                self.transaction(server, before)
        elif end in ("kill in commit", "drop in commit"):
            self.killed_in_commit(server, end, arguments, compacting, before, after)
            return self.listen(server, disturbed=True)
        elif end == "terminate":
            self.kill(server, signal.SIGTERM)
            return self.listen(server, disturbed=True)
        self.finish(server)

    def transaction(self, server, before):
        after = before.copy()
        self.play(server, self.compose(after, server.program))
        server.must("commit", **self.commit_arguments(server.dialect))
        self.settle(after)
        return after

    def side_values(self, server, state):
        """Nonce and key live outside transactions."""
        self.check("the nonce is the last one", server.must("get_free_nonce") == state.nonce, state.nonce)
        value = (state.nonce or 0) + self.rng.randrange(1, 1 << 40)
        server.must("commit_nonce_reservation", next_unreserved=value, start_nonce=state.nonce)
        state.nonce = value
        if self.rng.random() < 0.5:
            state.key = b"\n".join(b"%x" % self.rng.getrandbits(300) for _ in range(4))
            server.must("save_key", keydata=state.key)

    def killed_in_commit(self, server, end, arguments, compacting, before, after):
        self.counts["kills in commit"] += 1
        number = server.send("commit", **arguments)
        self.damaged = True
        time.sleep(self.rng.random() * 1.3 * self.durations.get((server.program, compacting), 0.01))
        self.possible = [before, after]
        if end == "drop in commit":
            server.close_pipes()
            server.process.wait(60)
            self.excused = self.excused or compacting
            return
        self.kill(server)
        try:
            answer = server.read(5)
            self.check("commit succeeds", answer.number == number and not answer.failed, answer)
            self.settle(after)
        except bed.Hangup:
            self.excused = self.excused or compacting
        self.story.append(f"  killed {'after' if len(self.possible) == 1 else 'before'} the answer")

    def traced(self, program):
        """Kills the server at its N-th call of a kind, wherever that is."""
        if not self.tracing:
            return
        calls, number = self.rng.choice(CALLS), int(self.rng.expovariate(1 / 12)) + 1
        if calls[0] in "wc" or calls == "openat":
            number *= 4
        wrapper = ["strace", "-qq", "-f", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={number}"]
        self.story.append(f"{program}: killed at call {number} of {calls}")
        before = self.possible[0]
        server = self.serve(program, wrapper=wrapper)
        try:
            server.open(self.repository)
            self.greet(server)
            while True:
                after = before.copy()
                self.play(server, self.compose(after, server.program))
                self.possible = [before, after]
                arguments = self.commit_arguments(server.dialect)
                server.must("commit", **arguments)
                self.settle(after)
                before = after
                if self.rng.random() < 0.2:
                    break
            ended = server.end()
            if ended == -signal.SIGKILL:  # on its way out, while it gave the lock back
                raise bed.Hangup("killed at the end")
            self.check(f"{program} ends with 0", ended == 0, f"exit code {ended}\n{server.said()[-800:]}")
            self.listen(server)
        except (bed.Hangup, OSError):
            self.kill(server)
            self.counts["traced kills"] += 1
            self.excused = self.damaged = True
            self.listen(server)

    # Between sessions, and what is found afterwards.

    def disturb(self):
        """Sometimes damages what can be rebuilt, or changes the mode of the repository."""
        if self.rng.random() < 0.15:
            done = borg1.damage(self.repository, self.rng, *self.rng.choice(self.damages()))
            if done:
                self.story.append(f"damaged: {done}")
                self.counts["damages"] += 1
                self.damaged = True
        if self.rng.random() < 0.05:
            borg1.configure(self.repository, append_only=self.rng.randrange(2))

    def damages(self):
        # An original does not survive a damaged file of digests (W4), so only its loss is fair.
        return [(kind, how) for kind in ("index", "hints") for how in DAMAGES] + [("integrity", "remove")]

    def read(self, program):
        """Everything, by one program."""
        exclusive = self.rng.random() < 0.7
        server = self.session(program, exclusive=exclusive)
        if exclusive and not program.version:
            self.killed = False
        # An original moves the marker to the place of a deleted entry when it looks it up, and goes on from there: whole pages
        # come twice, or, where the table begins anew in between, never. So originals list everything at once.
        keys, marker, limit = [], None, self.rng.choice([7, 100, 100000]) if not program.version else 100000
        while True:
            some = server.must("list", limit=limit, marker=marker)
            if not some:
                break
            keys += some
            marker = some[-1]
        once = len(set(keys)) == len(keys) or program.version
        self.check(f"{program} lists each object once", once, f"{len(keys)} listed, {len(set(keys))} different")
        keys = list(dict.fromkeys(keys))
        matching = [state for state in self.possible if set(state.objects) == set(keys)]
        expected = set(self.possible[0].objects)
        self.check(f"{program} lists what was committed", matching,
                   f"{len(expected - set(keys))} missing, {len(set(keys) - expected)} too many of {len(expected)}, {len(self.possible)} possible states")
        self.check(f"{program} counts rightly", server.must("__len__") == len(keys))
        self.rng.shuffle(keys)
        sent = {server.send("get", id=key): key for key in keys}
        found = {}
        while sent:
            answer = server.read()
            self.check(f"{program} reads", not answer.failed, answer)
            found[sent.pop(answer.number)] = answer.value
        matching = [state for state in matching if state.objects == found]
        wrong = [key.hex() for key in found if found[key] != self.possible[0].objects.get(key)]
        self.check(f"{program} reads what was committed", matching, f"{len(wrong)} differ: {wrong[:4]}")
        self.possible = [matching[0]]
        self.check(f"{program} keeps the key", server.must("load_key") == matching[0].key)
        if exclusive:
            self.verify(server)
        self.finish(server)

    def verify(self, server):
        """The repository's own check, which needs the exclusive lock."""
        right = server.must("check", repair=False, save_space=False, **({"max_duration": 0} if server.dialect >= (1, 2) else {}))
        said = server.said()
        self.check(f"{server.program}'s check finds nothing", right is True and "errors found" not in said, said[-2000:])

    def look(self):
        """Locks and temporary files have to be gone once a session ended in peace."""
        left = borg1.leftovers(self.repository)
        # W19: an original removes nothing of another one that was killed while opening. And where index and hints are in
        # order, it leaves new ones that were never completed until it commits; so do sessions of ours that may not write.
        excused = [name for name in left if name.startswith("lock.exclusive.") or self.killed and re.fullmatch(borg1.UNFINISHED, name)]
        self.check("no lock and no temporary file is left", left == excused, left)

    def step(self):
        self.superseding = self.superseding or self.counts["sessions"] >= 24
        self.disturb()
        if self.rng.random() < 0.1:
            self.killed_reading(self.next_program())
        self.write(self.next_program())
        # Who only reads mends the index, and does not look at the hints: whoever writes next finds them as they are.
        self.forget()
        hints, disturbed = self.hints(), self.damaged
        for program in self.rng.sample([self.ours, self.rng.choice(self.originals)], 2):
            self.read(program)
            self.damaged = self.hints() in (None, disturbed and hints)
        self.look()

    def killed_reading(self, program):
        """A kill in the middle of a session that only reads, but may have to recover."""
        server = self.session(program, exclusive=self.rng.random() < 0.5)
        self.story.append(f"{program}: killed while reading")
        server.send("list", limit=100)
        time.sleep(self.rng.random() * 0.02)
        self.kill(server)
        self.listen(server)

    def close(self):
        self.place.close()


@scenario
def objects(options, report):
    """Sessions on the level of the protocol."""
    deadline = time.monotonic() + options.limit * (0.35 if len(options.scenarios) != 1 else 0.9)
    o = Objects(options, report)
    try:
        o.create()
        while time.monotonic() < deadline and (not options.operations or o.counts["operations"] < options.operations):
            o.step()
    except (bed.Failed, bed.Hangup, OSError, subprocess.TimeoutExpired) as error:
        report.fail(f"objects, seed {options.seed}: session {o.counts['sessions']}", f"{error!r}" if not isinstance(error, bed.Failed) else error)
        if options.keep:
            print(f"        repository: {o.repository}")
    else:
        report.ok(f"objects: what was acknowledged is there, nothing else, nobody complains ({', '.join(f'{n} {what}' for what, n in o.counts.items())})")
    o.close()


# --- archives ---------------------------------------------------------------------------------------------------------

STEPS = {"create": 30, "delete": 9, "prune": 8, "compact": 8, "rename": 6, "recreate": 5, "check": 5, "repair": 2, "with-lock": 4,
         "change-passphrase": 3, "checkpoint": 2}  # fmt: skip
DELETING = ("delete", "prune", "recreate")  # see FORGETFUL
# Later clients refuse an archive that 1.1.18 has renamed or recreated: it keeps an authentication that is no longer true.
NOT_BY_1_1 = ("compact", "rename", "recreate")
INTERRUPTIONS = {"": 74, "kill client": 9, "kill server": 11, "interrupt client": 6}
CHUNKS = "10,14,12,4095"  # small ones, so that small files have many


class Archives:
    """One repository, what its archives hold, and the clients and servers that take turns."""

    def __init__(self, options, report):
        self.options, self.report, self.rng = options, report, random.Random(f"archives {options.seed}")
        self.place = bed.Place("interchange", options.keep)
        self.repository = self.place / "repository"
        self.source = self.place.directory("source")
        programs = borg1.originals(self.place)
        self.clients = [borg1.Client(program, self.place) for program in programs]
        self.servers = [borg1.Pipes(self.place, f"server-{program.name.replace(' ', '-')}", program)
                        for program in [borg1.under_test(self.place, options), *programs]]
        self.ours = self.servers[0]
        self.encryption = self.rng.choice(["none", "repokey", "repokey-blake2", "authenticated"])
        self.expected = {}  # archive: what it holds
        self.secret, self.turn, self.number, self.story = "correct horse", 0, 0, []
        self.excused, self.duration = False, 0.5  # excused: as in Objects
        self.superseding = self.forgotten = False  # whether anything was deleted yet, and whether hints are those of 1.1
        self.abandoned = set()  # locks and temporary files of killed processes
        self.counts = dict.fromkeys(("steps", "commands", "interruptions", "damages", "archives compared"), 0)

    def check(self, what, condition, detail=""):
        if not condition:
            raise bed.Failed(f"{what}\n{detail}\nlast steps:\n" + "\n".join(self.story[-12:]))

    def next_server(self):
        self.turn += 1
        return self.ours if self.turn % 2 else self.rng.choice(self.servers[1:])

    def url(self, archive=""):
        return f"ssh://test{self.repository}" + (f"::{archive}" if archive else "")

    def environment(self):
        return {"BORG_PASSPHRASE": self.secret}

    def run(self, client, server, *words, ok=(0,), **more):
        """A command in peace; `server` None is the client's own access to the directory."""
        self.counts["commands"] += 1
        self.forget(server)
        outcome = client.run(*words, rsh=server.rsh if server else None, cwd=more.pop("cwd", self.source),
                             environment={**self.environment(), **more.pop("environment", {})}, **more)
        self.check(f"{words[0]} by {client.program} through {server.name if server else 'the directory'}", outcome.code in ok, outcome)
        self.listen(outcome)
        return outcome

    def forget(self, server):
        """As in Objects.serve; the client's own access is that of a version of its own."""
        if self.forgotten:
            borg1.forget_hints(self.repository)
        self.forgotten = bool(server) and server.program.version == FORGETFUL and self.superseding

    def listen(self, outcome):
        found = borg1.COMPLAINTS.search(outcome.output)
        if found and self.excused and found[0] == "not found, but listed":
            found = None
        self.check("nobody complains", not found, outcome)

    def change(self):
        """Files come, go and change; a file that stays keeps its content."""
        names = sorted(path.name for path in self.source.iterdir())
        for _ in range(self.rng.randrange(1, 6)):
            name = f"file {self.rng.randrange(16)}"
            if name in names and self.rng.random() < 0.3:
                (self.source / name).unlink(missing_ok=True)
            else:
                (self.source / name).write_bytes(self.rng.randbytes(self.rng.choice([0, 10, 3000, 30000, 30000, 200000])))

    # Each composes a command: its words, and what the archives are afterwards.

    def create(self, client):
        self.change()
        self.number += 1
        # Times of their own, so that prune knows an order.
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(1_600_000_000 + 7200 * self.number))
        words = ["create", "--chunker-params", CHUNKS, "--timestamp", stamp, self.url(f"a{self.number}"), "."]
        return words, {**self.expected, f"a{self.number}": bed.fingerprint(self.source)}

    def checkpoint(self, client):
        """A slow backup, which saves a checkpoint after a second."""
        (self.source / "large").write_bytes(self.rng.randbytes(900_000))
        words, after = self.create(client)
        return [words[0], "--checkpoint-interval", "1", "--remote-ratelimit", "500", *words[1:]], after

    def delete(self, client):
        names = self.rng.sample(sorted(self.expected), min(len(self.expected), self.rng.choice([1, 1, 2])))
        after = {name: held for name, held in self.expected.items() if name not in names}
        return ["delete", self.url(names[0]), *names[1:]], after

    def prune(self, client):
        keep = self.rng.randrange(2, 6)
        kept = sorted(self.expected, key=lambda name: int(name.strip("ar")))[-keep:]
        return ["prune", "--keep-last", str(keep), self.url()], {name: self.expected[name] for name in kept}

    def compact(self, client):
        more = ["--cleanup-commits"] if self.rng.random() < 0.3 else []
        return ["compact", *more, "--threshold", str(self.rng.choice([0, 10, 30])), self.url()], self.expected

    def rename(self, client):
        old = self.rng.choice(sorted(self.expected))
        new = f"r{old}"
        return ["rename", self.url(old), new], {new if name == old else name: held for name, held in self.expected.items()}

    def recreate(self, client):
        name = self.rng.choice(sorted(self.expected))
        files = [path for path, entry in self.expected[name].items() if entry[0] == "-"]
        gone = self.rng.choice(files) if files else "nothing"
        after = {path: entry for path, entry in self.expected[name].items() if path != gone}
        return ["recreate", "--exclude", f"pp:{gone}", self.url(name)], {**self.expected, name: after}

    def step(self):
        if len(self.expected) > 7:
            kind = self.rng.choice(["prune", "delete"])
        else:
            kind = self.rng.choices(list(STEPS), STEPS.values())[0]
        if not self.expected:
            kind = "create"
        versions = [client for client in self.clients if kind not in NOT_BY_1_1 or client.program.version != FORGETFUL]
        client, server = self.rng.choice(versions), self.next_server()
        while server.program.version == FORGETFUL and kind in DELETING and server is not self.ours:
            server = self.rng.choice(self.servers[1:])
        interruption = self.rng.choices(list(INTERRUPTIONS), INTERRUPTIONS.values())[0]
        self.disturb()
        self.counts["steps"] += 1
        self.superseding = self.superseding or kind not in ("create", "check", "with-lock")
        self.story.append(f"{kind} by {client.program} through {server.name} {interruption}")
        if kind in ("check", "repair"):
            self.run(client, server, "check", *(["--repair"] if kind == "repair" else self.rng.choice([[], ["--repository-only"], ["--verify-data"]])), self.url())
        elif kind == "with-lock":
            self.run(client, server, "with-lock", self.url(), "sleep", "0.05")
        elif kind == "change-passphrase":
            if self.encryption.startswith("repokey"):
                new = f"secret {self.number} {self.rng.random()}"
                self.run(client, server, "key", "change-passphrase", self.url(), environment={"BORG_NEW_PASSPHRASE": new})
                self.secret = new
        else:
            words, after = getattr(self, kind)(client)
            if interruption:
                self.interrupted(client, server, words, after, interruption)
            else:
                self.duration = self.run(client, server, *words).seconds
                self.expected = after
        self.look()
        self.verify(everything=self.counts["steps"] % 8 == 0 or bool(self.counts["steps"] % 3 == 0 and interruption))

    def interrupted(self, client, server, words, after, interruption):
        """Lets a command be killed or interrupted; then what is there decides, within what may be there."""
        self.counts["interruptions"] += 1
        served = len(server.pids())
        self.forget(server)
        process = client.start(*words, rsh=server.rsh, cwd=self.source, environment=self.environment())
        time.sleep(self.rng.uniform(0.1, 1.2) * self.duration)
        if interruption == "kill server":
            for pid in server.pids()[served:]:
                if bed.is_alive(pid):
                    os.kill(pid, signal.SIGKILL)
        else:
            # Alone: a server that is no fork is in its process group.
            with contextlib.suppress(ProcessLookupError):  # it may just have ended
                os.kill(process.pid, signal.SIGKILL if interruption == "kill client" else signal.SIGINT)
        code = process.wait(60)
        gone = bed.wait_until(lambda: not any(map(bed.is_alive, server.pids()[served:])), 20)
        self.check(f"the server {server.name} ends with its client", gone is not None)
        self.excused = True
        self.abandoned |= set(borg1.leftovers(self.repository))
        if code == 0 and interruption != "interrupt client":  # which may have ended with a checkpoint
            self.expected = after
            return
        names = set(self.names(self.clients[2], self.next_server()))
        extra = {name for name in names if ".checkpoint" in name or ".recreate" in name}
        for name in sorted(extra):
            self.run(client, self.next_server(), "delete", self.url(name))
        names -= extra
        both = set(self.expected) & set(after)
        self.check("what was there is there, and nothing else than what was being made", both <= names <= set(self.expected) | set(after),
                   f"before {sorted(self.expected)}, after {sorted(after)}, found {sorted(names)}")
        settled = {}
        for name in names:
            possible = [state[name] for state in (self.expected, after) if name in state]
            found = self.extracted(self.clients[2], self.next_server(), name) if len(possible) == 1 or possible[0] != possible[1] else possible[0]
            self.check(f"archive {name} is one of those that may be there", found in possible, bed.difference(possible[0], found))
            settled[name] = found
        self.expected = settled

    def disturb(self):
        if self.rng.random() < 0.12:
            kind, how = self.rng.choice([(kind, how) for kind in ("index", "hints") for how in DAMAGES] + [("integrity", "remove")])
            done = borg1.damage(self.repository, self.rng, kind, how)
            if done:
                self.story.append(f"damaged: {done}")
                self.counts["damages"] += 1

    def names(self, client, server):
        more = ["--consider-checkpoints"] if client.program.version != "1.1.18" else []
        lines = self.run(client, server, "list", *more, "--format", "archive={archive}{NL}", self.url()).output.splitlines()
        return [line.removeprefix("archive=") for line in lines if line.startswith("archive=")]

    def extracted(self, client, server, name):
        target = self.place.directory("restored")
        try:
            self.run(client, server, "extract", self.url(name), cwd=target)
            return bed.fingerprint(target)
        finally:
            shutil.rmtree(target)

    def compare(self, client, server, name):
        self.counts["archives compared"] += 1
        found = self.extracted(client, server, name)
        self.check(f"archive {name} is what was backed up", found == self.expected[name], bed.difference(self.expected[name], found))

    def look(self):
        """What is left may only be what a killed process left, and nothing can come back."""
        left = set(borg1.leftovers(self.repository))
        self.check("no lock and no temporary file is left", left <= self.abandoned, sorted(left))
        self.abandoned &= left

    def verify(self, everything):
        """The list and one archive through the other side, or all of them and both checks."""
        client, server = self.rng.choice(self.clients), self.next_server()
        names = self.names(client, server)
        self.check("the list is what was backed up", sorted(names) == sorted(self.expected), f"expected {sorted(self.expected)}, found {sorted(names)}")
        names = sorted(self.expected) if everything else sorted(self.expected)[-1:]
        for name in names:
            self.compare(client, self.next_server(), name)
        if everything:
            self.run(self.rng.choice(self.clients), self.ours, "check", self.url())
            self.run(self.rng.choice(self.clients), None, "check", str(self.repository))
            self.look()

    def begin(self):
        client = self.rng.choice(self.clients)
        self.run(client, self.next_server(), "init", "-e", self.encryption, self.url())
        borg1.configure(self.repository, max_segment_size=self.rng.choice([100_000, 1_000_000, 524288000]),
                        segments_per_dir=self.rng.choice([10, 1000]))

    def close(self):
        for server in self.servers:
            for pid in server.alive():
                os.kill(pid, signal.SIGKILL)
        self.place.close()


@scenario
def archives(options, report):
    """Stock clients."""
    deadline = time.monotonic() + options.limit * (0.6 if len(options.scenarios) != 1 else 0.9)
    a = Archives(options, report)
    try:
        a.begin()
        while time.monotonic() < deadline and (not options.operations or a.counts["steps"] < options.operations):
            a.step()
        a.verify(everything=True)
    except (bed.Failed, OSError, subprocess.TimeoutExpired) as error:
        report.fail(f"archives, {a.encryption}, seed {options.seed}: step {a.counts['steps']}", error if isinstance(error, bed.Failed) else repr(error))
        if options.keep:
            print(f"        repository: {a.repository}")
    else:
        report.ok(f"archives, {a.encryption}: all are what was backed up, nobody complains ({', '.join(f'{n} {what}' for what, n in a.counts.items())})")
    a.close()


def main():
    parser = bed.parser(__doc__, limit=150)
    scenario.add_argument(parser)
    parser.add_argument("--operations", type=int, default=0, metavar="N", help="end each scenario after N operations (default: with the time)")
    options = bed.parse(parser)
    signal.alarm(options.limit + 60)  # each scenario keeps the limit itself
    report = bed.Report()
    for play in scenario.chosen(options):
        play(options, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
