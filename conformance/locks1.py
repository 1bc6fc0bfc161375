#!/usr/bin/env python3
"""Lets the locking code of Borg 1.1, 1.2 and 1.4 contend with sessions of the server for one Borg 1 repository.

Each party is a process of its own on the same host id. With an original as --server, what only a better server does
(the weaknesses, by their numbers) is skipped.
"""

import os
import subprocess
import sys
import time

import bed

VERSIONS = ["1.1.18", "1.2.9", "1.4.5"]
HOST = "here@1"
scenarios = bed.Scenarios()

# Runs inside a client's own Python: one command a line, one answer a line.
PARTY = """
import os, sys
from borg import locking
from borg.logger import setup_logging
setup_logging()
path = sys.argv[1]
lock = None
for line in sys.stdin:
    word, *rest = line.split()
    try:
        if word in ('exclusive', 'shared'):
            options = {'kill_stale_locks': True} if '%VERSION%'.startswith('1.1') else {}
            lock = locking.Lock(os.path.join(path, 'lock'), exclusive=word == 'exclusive', timeout=float(rest[0]), **options)
            lock.acquire()
            answer = 'ok'
        elif word == 'got':
            answer = str(lock.got_exclusive_lock())
        else:
            getattr(lock, word)()
            answer = 'ok'
    except Exception as error:
        answer = type(error).__name__
    print(answer, flush=True)
"""


class Party:
    """A process that holds a lock by an original's own code."""

    def __init__(self, played, version):
        self.process = subprocess.Popen(
            [bed.CLIENTS / version / "bin/python", "-c", PARTY.replace("%VERSION%", version), played.repository],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=played.environment, text=True, start_new_session=True)
        played.started.append(self)

    def ask(self, *words):
        print(*words, file=self.process.stdin, flush=True)

    def answer(self):
        return self.process.stdout.readline().strip()

    def __call__(self, *words):
        self.ask(*words)
        return self.answer()

    def take(self, exclusive, wait=0):
        return self("exclusive" if exclusive else "shared", wait)

    def ask_to_take(self, exclusive, wait):
        self.ask("exclusive" if exclusive else "shared", wait)

    def got(self):
        return self("got") == "True"

    def end(self):
        self.process.stdin.close()
        self.process.wait(20)

    def leave(self):
        self("release")
        self.end()

    def kill(self):
        bed.kill_group(self.process)
        self.process.wait()


class Session:
    """A session of the server, that holds a lock by having the repository open."""

    def __init__(self, played, version=None):
        self.played = played
        self.process = subprocess.Popen(
            [played.options.server, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=open(played.place / "server.log", "ab"), env=played.environment, start_new_session=True)
        played.started.append(self)
        self.unpacker = played.msgpack.Unpacker(raw=False, strict_map_key=False, unicode_errors="replace")
        self.number = 1
        self.send([1, 1, "negotiate", [{"client_version": [1, 4, 5, -1]}]])
        self.receive()

    def send(self, message):
        self.process.stdin.write(self.played.msgpack.packb(message, use_bin_type=False))
        self.process.stdin.flush()

    def receive(self):
        while True:
            for message in self.unpacker:
                return message
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data:
                raise bed.Failed("the server hung up")
            self.unpacker.feed(data)

    def ask(self, method, **arguments):
        self.number += 1
        self.send({"i": self.number, "m": method, "a": arguments})

    def answer(self):
        return self.receive().get("exception_class", "ok")

    def __call__(self, method, **arguments):
        self.ask(method, **arguments)
        return self.answer()

    def ask_to_take(self, exclusive, wait):
        self.ask("open", path=self.played.repository, create=False, lock_wait=wait, lock=True, exclusive=exclusive,
                 append_only=False, make_parent_dirs=False)

    def take(self, exclusive, wait=0):
        self.ask_to_take(exclusive, wait)
        return self.answer()

    def got(self):
        # Refused without the exclusive lock.
        return self("get_free_nonce") == "ok"

    def end(self):
        self.process.stdin.close()
        self.process.stdout.read()
        self.process.wait(20)

    leave = end

    def kill(self):
        bed.kill_group(self.process)
        self.process.wait()


class Played:
    """One repository, and the parties that want it."""

    def __init__(self, name, options, report):
        self.name, self.options, self.report = name, options, report
        self.place = bed.Place("locks1", options.keep)
        self.msgpack = bed.load_msgpack()
        self.repository = str(self.place / "repository")
        self.started = []
        client = bed.Client("1.4.5", self.place, repository=self.repository, host_id=HOST)
        self.environment = client.environment
        made = client.run("init", "--encryption", "none")
        if made.code:
            raise bed.Failed(str(made))
        self.is_original = "borg-serve" not in os.path.basename(options.server)

    def check(self, name, condition, detail=""):
        return self.report.check(f"{self.name}: {name}", condition, detail)

    def same(self, name, found, wanted):
        return self.check(name, found == wanted, f"found {found}, not {wanted}; {self.locks()}")

    def weakness(self, name):
        """Whether to look at what the originals do badly."""
        if self.is_original:
            self.report.skip(f"{self.name}: {name}", "an original")
        return not self.is_original

    def locks(self):
        return sorted(name for name in os.listdir(self.repository) if name.startswith("lock."))

    def clean(self):
        self.same("no lock is left", self.locks(), [])

    def pairs(self):
        """All pairs of the server and an original, in both orders."""
        for version in VERSIONS:
            yield f"{version} first", lambda: Party(self, version), lambda: Session(self)
            yield f"{version} second", lambda: Session(self), lambda: Party(self, version)

    def said(self):
        return (self.place / "server.log").read_text() if (self.place / "server.log").exists() else ""

    def close(self):
        for party in self.started:
            bed.kill_group(party.process)
        self.place.close()


@scenarios
def exclusion(played):
    """Who keeps out whom, without waiting."""
    for name, first, second in played.pairs():
        for one in (True, False):
            for other in (True, False):
                a, b = first(), second()
                words = f"{name}, {'exclusive' if one else 'shared'} and {'exclusive' if other else 'shared'}"
                played.same(f"{words}: the first", a.take(one), "ok")
                played.same(f"{words}: the second", b.take(other), "LockTimeout" if one or other else "ok")
                a.leave()
                (b.leave if not one and not other else b.end)()
    played.clean()


@scenarios
def handover(played):
    """A waiter gets the lock when it is given back."""
    for name, first, second in played.pairs():
        for one, other in ((True, True), (True, False), (False, True)):
            a, b = first(), second()
            a.take(one)
            b.ask_to_take(other, 10)
            time.sleep(0.15)
            a.leave()
            played.same(f"{name}: {'writer' if one else 'reader'}, then {'writer' if other else 'reader'}", b.answer(), "ok")
            b.leave()
    played.clean()


@scenarios
def stale(played):
    """What a killed holder leaves is no obstacle."""
    for name, first, second in played.pairs():
        for one in (True, False):
            a, b = first(), second()
            a.take(one)
            a.kill()
            played.same(f"{name}: after a killed {'writer' if one else 'reader'}", b.take(True, 1), "ok")
            b.leave()
    played.clean()


@scenarios
def broken(played):
    """A broken lock is noticed by whoever had it, and does no harm to the next."""
    for name, first, second in played.pairs():
        a, b = first(), second()
        a.take(True)
        played.check(f"{name}: held", a.got())
        breaker = Session(played)
        breaker("open", path=played.repository, create=False, lock_wait=1, lock=False, exclusive=False)
        played.same(f"{name}: breaking", breaker("break_lock"), "ok")
        breaker.end()
        played.check(f"{name}: lost", not a.got())
        played.same(f"{name}: the next", b.take(True), "ok")
        a.kill() if played.is_original else a.leave()
        played.check(f"{name}: the next one's stays", b.got(), played.locks())
        b.leave()
    played.clean()


@scenarios
def unreachable(played):
    """A waiting client that goes leaves nothing, and does not wait on."""
    holder = Party(played, "1.4.5")
    holder.take(True)
    waiter = Session(played)
    waiter.ask_to_take(True, 60)
    time.sleep(0.5)
    if played.weakness("W11: a hangup ends the wait"):
        started = time.monotonic()
        waiter.end()
        played.check("W11: a hangup ends the wait", time.monotonic() - started < 5)
        played.same("nothing of the waiter's is left", played.locks(), ["lock.exclusive", "lock.roster"])
    else:
        waiter.kill()
    holder.leave()


@scenarios
def leftovers(played):
    """What killed waiters and half-made locks leave."""
    holder, waiter = Party(played, "1.4.5"), Party(played, "1.4.5")
    holder.take(True)
    waiter.ask_to_take(True, 60)
    bed.wait_until(lambda: any(name.endswith(".tmp") for name in played.locks()), 10)
    waiter.kill()
    holder.leave()
    if played.weakness("W19: what a killed waiter left is swept"):
        session = Session(played)
        session.take(True)
        session.leave()
        played.same("W19: what a killed waiter left is swept", played.locks(), [])
    if played.weakness("W20: 1.1's directory is left alone while it is new"):
        directory = os.path.join(played.repository, "lock.exclusive")
        os.mkdir(directory)
        session = Session(played)
        played.same("W20: 1.1's directory is left alone while it is new", session.take(True), "LockTimeout")
        played.check("W20: it is still there", os.path.isdir(directory))
        os.utime(directory, (time.time() - 60,) * 2)
        played.same("W20: an old one is not", session.take(True), "ok")
        session.leave()
        played.clean()


@scenarios
def contention(played):
    """Never two at a time, whoever contends."""
    for name, first, second in played.pairs():
        parties, wins = [first(), second()], [0, 0]
        end = time.monotonic() + 1
        while time.monotonic() < end:
            for party in parties:
                party.ask_to_take(True, 0)
            answers = [party.answer() for party in parties]
            if answers.count("ok") > 1:
                played.check(f"{name}: both have it", False, answers)
                break
            for index, party in enumerate(parties):
                if answers[index] == "ok":
                    wins[index] += 1
                    party.leave()
                    parties[index] = (first, second)[index]()
        played.check(f"{name}: never both of them", sum(wins) > 0, wins)
        for party in parties:
            party.end()
    played.clean()


def main():
    made = bed.parser(__doc__, 600)
    scenarios.add_argument(made)
    options = bed.parse(made)
    report = bed.Report()
    for scenario in scenarios.chosen(options):
        with bed.closing(Played(scenario.__name__, options, report)) as played:
            scenario(played)
    sys.exit(report.finish())


if __name__ == "__main__":
    main()
