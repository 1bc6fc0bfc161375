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
All versions read what all others write, with the manifest and archives authenticated (TAM) as well, so all are mixed freely.
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

scenario = bed.Scenarios()


def can_trace():
    strace = shutil.which("strace")
    return strace and not subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode


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
ENDS = {"commit": 58, "rollback": 7, "hang up": 6, "kill": 7, "kill in commit": 14, "drop in commit": 3, "terminate": 2, "trace": 8}
DAMAGES = ("remove", "empty", "truncate", "change")


class Objects:
    """One repository, its model, and the sessions upon it."""

    def __init__(self, options, report):
        self.options, self.report, self.rng = options, report, random.Random(f"objects {options.seed}")
        self.place = bed.Place("interchange", options.keep)
        self.repository = self.place / "repository"
        self.ours, self.originals = borg1.under_test(self.place, options), borg1.originals(self.place)
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
        server = borg1.Server1(program, wrapper=wrapper, dialect=dialect or self.rng.choice([(1, 1, 18), (1, 2, 9), (1, 4, 5)]))
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

    def create(self):
        """The first transaction is committed in peace: what remains of an aborted one stops every original (W8)."""
        program = self.next_program()
        self.damaged = False
        server = borg1.Server1(program)
        server.open(self.repository, create=True)
        server.must("put", id=borg1.MANIFEST, data=b"manifest", wait=True)
        server.must("commit", save_space=False, compact=False)
        self.finish(server)
        self.possible = [State({borg1.MANIFEST: b"manifest"})]
        borg1.configure(self.repository, segments_per_dir=self.rng.choice([5, 20, 1000]),
                        max_segment_size=self.rng.choice([20_000, 200_000, 524288000]))

    # One transaction, composed first and then sent without waiting, as clients do.

    def compose(self, state):
        """Requests with the answers expected; `state` becomes what it is after them."""
        rng, requests = self.rng, []
        for _ in range(rng.choice([1, 3, 8, 20, 60])):
            known = [key for key in state.objects if key != borg1.MANIFEST]
            kind = rng.choices(["new", "overwrite", "delete", "get", "missing"], [45, 15, 20 if len(known) < 250 else 60, 12, 3])[0]
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

    def settle(self, state):
        self.possible = [state]
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
        requests = self.compose(after)
        if end == "kill":
            self.play(server, requests, stop_after=self.rng.randrange(len(requests) + 1))
            time.sleep(self.rng.random() * 0.003)
            server.kill()
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
            if self.rng.random() < 0.5:
                self.transaction(server, before)
        elif end in ("kill in commit", "drop in commit"):
            self.killed_in_commit(server, end, arguments, compacting, before, after)
            return self.listen(server, disturbed=True)
        elif end == "terminate":
            server.kill(signal.SIGTERM)
            return self.listen(server, disturbed=True)
        self.finish(server)

    def transaction(self, server, before):
        after = before.copy()
        self.play(server, self.compose(after))
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
        server.kill()
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
        wrapper = ["strace", "-qq", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", f"trace={calls}", "-e", f"inject={calls}:signal=KILL:when={number}"]
        self.story.append(f"{program}: killed at call {number} of {calls}")
        before = self.possible[0]
        server = borg1.Server1(program, wrapper=wrapper)
        try:
            server.open(self.repository)
            self.greet(server)
            while True:
                after = before.copy()
                self.play(server, self.compose(after))
                self.possible = [before, after]
                arguments = self.commit_arguments(server.dialect)
                server.must("commit", **arguments)
                self.settle(after)
                before = after
                if self.rng.random() < 0.2:
                    break
            self.finish(server)
        except (bed.Hangup, OSError):
            server.kill()
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
        keys, marker, limit = [], None, self.rng.choice([7, 100, 100000])
        while True:
            some = server.must("list", limit=limit, marker=marker)
            if not some:
                break
            keys += some
            marker = some[-1]
        # An original moves the marker to the place of a deleted entry when it looks it up, and goes on from there.
        once = len(set(keys)) == len(keys) or (program.version and limit < len(keys))
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
        killed_openings = [name for name in left if name.startswith("lock.exclusive.")]  # W19: an original killed while opening
        self.check("no lock and no temporary file is left", left == killed_openings or left == [], left)

    def step(self):
        self.disturb()
        if self.rng.random() < 0.1:
            self.killed_reading(self.next_program())
        self.write(self.next_program())
        for program in self.rng.sample([self.ours, self.rng.choice(self.originals)], 2):
            self.read(program)
            self.damaged = False
        self.look()

    def killed_reading(self, program):
        """A kill in the middle of a session that only reads, but may have to recover."""
        server = self.session(program, exclusive=self.rng.random() < 0.5)
        self.story.append(f"{program}: killed while reading")
        server.send("list", limit=100)
        time.sleep(self.rng.random() * 0.02)
        server.kill()
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
