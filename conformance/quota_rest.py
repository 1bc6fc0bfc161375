#!/usr/bin/env python3
"""--storage-quota over the HTTP dialect, with stock clients, originals in between, and processes that store at once.

Proved: what would exceed the limit is answered with 507 and nothing of it is stored; `cmd=quota` tells what is there; the
stock clients of each version say what is the matter, end with an error, and go on once there is room again (after delete
and compact, or with a larger limit); an original without a quota that stored in between is noticed, though it removes its
own counter; processes that store at the same time never hold more than the limit together, nor refuse what has room.

Locks are never refused, and packs leave some room, so that a full repository can be read, and be emptied.

The original as server under test fails: it knows no --storage-quota.
"""

import hashlib
import os
import random
import re
import shutil
import sys
import threading

sys.dont_write_bytecode = True
import bed
import rawhttp
from rawhttp import request

VERSIONS = ("2.0.0b22", "2.0.0b23", "2.0.0b24", "2.0.0b25")
scenario = bed.Scenarios()
LIMIT = 20_000_000  # bytes; the option takes at least 10M
ROOM = 1 << 20  # of it that packs leave to the rest


def content(path):
    """Bytes that count: of all objects, but not of what nobody can see."""
    total = 0
    for folder, directories, names in os.walk(path):
        directories[:] = [name for name in directories if not name.endswith(".tmp")]
        total += sum(os.lstat(os.path.join(folder, name)).st_size for name in names if not name.endswith((".tmp", ".hid")))
    return total


class Raw:
    """A server of a store, spoken to directly."""

    def __init__(self, options, store, *arguments, program=None):
        self.connection = rawhttp.Stdio([program or options.server, "serve", "--rest", "--backend", f"FILE:{store}", *arguments])

    def ask(self, *arguments, **more):
        return self.connection.exchange(request(*arguments, **more))

    def store(self, name, body):
        return self.ask("POST", f"/{name}", body, headers=[("X-Content-hash-sha256", hashlib.sha256(body).hexdigest())])

    def usage(self):
        return self.ask("POST", "/?cmd=quota").json()

    def end(self):
        return self.connection.end()[0]


def pack(rng, size):
    body = rng.randbytes(size)
    name = hashlib.sha256(body).hexdigest()
    return f"packs/{name[:2]}/{name}", body


class Bed:
    def __init__(self, name, options, report):
        self.name, self.report, self.options = name, report, options
        self.rng = random.Random(f"{options.seed} {name}")
        self.place = bed.Place("quota", options.keep)
        self.store = self.place / "repository"

    def check(self, what, condition, detail="", note=""):
        return self.report.check(f"{self.name}: {what}", condition, detail, note)

    def raw(self, *arguments, quota="20M", **more):
        return Raw(self.options, self.store, *(["--storage-quota", quota] if quota else []), *arguments, **more)

    def begin(self):
        """A repository for raw clients."""
        server = self.raw()
        answers = [server.ask("POST", "/?cmd=create")] + [server.store(f"config/{name}", b"4") for name in ("version", "id", "readme")]
        self.check("a store is made", [answer.status for answer in answers] == [200] * 4, list(map(str, answers)))
        return server

    def close(self):
        self.place.close()


@scenario
def raw_requests(options, report):
    with bed.closing(Bed("raw", options, report)) as b:
        server = b.begin()
        begun = content(b.store)
        b.check("the quota is told", server.usage() == {"limit": LIMIT, "usage": begun}, server.usage())
        name, body = pack(b.rng, 12_000_000)
        b.check("what fits is stored", server.store(name, body).status == 200)
        # A client whose connection was lost asks again for what may have been done.
        b.check("the same again is no more, and needs no room", server.store(name, body).status == 200 and server.usage()["usage"] == begun + 12_000_000, server.usage())
        other, more = pack(b.rng, 8_000_001)
        answer = server.store(other, more)
        b.check("what does not is 507", answer.status == 507, answer, answer.body.decode(errors="replace").strip())
        b.check("and not there", server.ask("HEAD", f"/{other}").status == 404 and content(b.store) <= LIMIT, content(b.store))
        left = bed.staged_files(b.store)
        b.check("nothing of it is left beside", len(left) <= 1, left)  # what fitted may still be staged
        room = LIMIT - begun - 12_000_000
        b.check("packs leave room to deletions", server.store(*pack(b.rng, room - ROOM + 1)).status == 507, server.usage())
        exact = pack(b.rng, room - ROOM)
        b.check("up to there they are stored", server.store(*exact).status == 200, server.usage())
        index = b.rng.randbytes(ROOM)
        b.check("what else fits to the byte is stored", server.store("index/" + hashlib.sha256(index).hexdigest(), index).status == 200, server.usage())
        b.check("and not one byte more", server.store("cache/chunks", b"x").status == 507)
        lock = b.rng.randbytes(170)
        lock = "locks/" + hashlib.sha256(lock).hexdigest(), lock
        b.check("locks are", server.store(*lock).status == 200 and server.ask("DELETE", f"/{lock[0]}").status == 200)
        b.check("unless they are none", server.store("locks/" + "a" * 64, b.rng.randbytes(100_000)).status == 507)
        gathered = f'[["{name}", 0, 1]]'.encode()
        b.check("not by defrag either", server.ask("POST", "/?cmd=defrag&target=cache/merged", gathered).status == 507)
        b.check("empty objects are stored", server.store("archives/" + "a" * 64, b"").status == 200)
        b.check("and reading, hashing, listing goes on", [server.ask("GET", f"/{name}").status, server.ask("POST", f"/{name}?cmd=hash").status,
                                                         server.ask("GET", "/packs/").status] == [200] * 3)
        b.check("a deletion makes room", server.ask("DELETE", f"/{name}").status == 200 and server.store(other, more).status == 200, server.usage())
        expected = begun + len(more) + len(exact[1]) + ROOM
        b.check("the count is what is there", server.usage()["usage"] == expected, server.usage())
        b.check("the server ends well", server.end() == 0)
        b.check("on disk, too", content(b.store) == expected, content(b.store))


@scenario
def original_in_between(options, report):
    """What others store without a count counts."""
    for version in ("2.0.0b22", "2.0.0b25"):
        with bed.closing(Bed(f"{version} in between", options, report)) as b:
            server = b.begin()
            name, body = pack(b.rng, 5_000_000)
            server.store(name, body)
            b.check("the server ends well", server.end() == 0)
            original = Raw(options, b.store, program=str(bed.client_path(version)))
            foreign, more = pack(b.rng, 10_000_000)
            b.check("the original stores", original.store(foreign, more).status == 200)
            b.check("and ends", original.end() == 0)
            # Short ones as most commands': the first may come before the count, but not all of them.
            for _ in range(3):
                server = b.raw()
                server.store(*pack(b.rng, 200_000))
                server.end()
            server, used = b.raw(), content(b.store)
            third, large = pack(b.rng, 6_000_000)
            b.check("what no longer fits is 507", server.store(third, large).status == 507, server.usage(), f"{used} of {LIMIT}")
            b.check("the count is what is there", server.usage()["usage"] == used, f"{server.usage()}, {used}")
            original = Raw(options, b.store, program=str(bed.client_path(version)))
            original.ask("DELETE", f"/{foreign}")
            original.end()
            took = bed.wait_until(lambda: server.store(third, large).status == 200, 5, 0.2)
            b.check("what it removes beside us makes room, soon", took is not None, server.usage(), f"{(took or 0) * 1000:.0f} ms")
            b.check("the server ends well", server.end() == 0)
            b.check("no more than the limit is there", content(b.store) <= LIMIT, content(b.store))


@scenario
def at_once(options, report):
    """Two processes store until both are refused, again and again."""
    with bed.closing(Bed("two at once", options, report)) as b:
        b.begin().end()
        for number in range(options.rounds):
            most, stop = [0], threading.Event()

            def watch():
                while not stop.wait(0.002):
                    most[0] = max(most[0], content_or_zero(b.store))

            stored, answers = [], []

            def fill(seed):
                rng, server = random.Random(seed), b.raw()
                refused = 0
                while refused < 5:
                    name, body = pack(rng, rng.randrange(100_000, 1_500_000))
                    answer = server.store(name, body)
                    answers.append(answer.status)
                    if answer.status == 200:
                        stored.append((name, len(body)))
                    else:
                        refused += 1
                answers.append(server.end())

            watcher = threading.Thread(target=watch)
            fillers = [threading.Thread(target=fill, args=(f"{options.seed} {number} {index}",)) for index in range(2)]
            for thread in [watcher, *fillers]:
                thread.start()
            for thread in fillers:
                thread.join()
            stop.set()
            watcher.join()
            b.check(f"round {number + 1}: only 200 and 507", set(answers) == {200, 507, 0}, set(answers))
            b.check(f"round {number + 1}: never more than the limit", 0 < most[0] <= LIMIT >= content(b.store), f"{most[0]}, {content(b.store)}", f"at most {most[0]}")
            b.check(f"round {number + 1}: room is used", content(b.store) > LIMIT - ROOM - 1_500_000, content(b.store))
            missing = [name for name, size in stored if not (b.store / name).is_file() or (b.store / name).stat().st_size != size]
            b.check(f"round {number + 1}: all that was acknowledged is there", not missing, missing)
            server = b.raw()
            b.check(f"round {number + 1}: the count is what is there", server.usage()["usage"] == content(b.store), server.usage())
            for name, _ in stored:
                server.ask("DELETE", f"/{name}")
            server.end()


def content_or_zero(path):
    try:
        return content(path)
    except FileNotFoundError:
        return 0


@scenario
def clients(options, report):
    for version in options.versions:
        with bed.closing(Bed(version, options, report)) as b:
            ours = {quota: bed.Pipes(b.place, f"quota-{quota}", options.server, "--rest", "--storage-quota", quota) for quota in ("20M", "40M")}
            url = ours["20M"].url(b.store, version)
            client = bed.Client(version, b.place, repository=url, rsh=ours["20M"].rsh, BORG_PACK_MAX_COUNT="3")
            source = b.place.directory("source")

            def run(*arguments, quota="20M", cwd=None):
                return client.run(*arguments, cwd=cwd or source, environment={"BORG_RSH": ours[quota].rsh})

            def data(name, megabytes):
                (source / name).mkdir()
                for number in range(megabytes):
                    (source / name / str(number)).write_bytes(b.rng.randbytes(1_000_000))

            run("repo-create", *bed.encryption(version))
            data("first", 8)
            data("second", 16)
            expected = bed.fingerprint(source)
            outcome = run("create", "first", "first")
            b.check("what fits is backed up", outcome.code == 0, outcome)
            outcome = run("create", "second", "second")
            last = re.findall(r"the quota of 20000000 bytes is exceeded.*", outcome.output)
            b.check("what does not ends with an error that names the quota", outcome.code not in (0, 1) and last, outcome, last[-1] if last else "")
            b.check("no more than the limit is there", content(b.store) <= LIMIT, content(b.store))
            b.check("no lock is left", not bed.lock_files(b.store), bed.lock_files(b.store))
            outcome = run("compact", "-v")
            b.check("compact makes room", outcome.code == 0 and content(b.store) < 10_000_000, f"{outcome}\n{content(b.store)}")
            outcome = run("create", "second", "second", quota="40M")
            b.check("with a larger limit it fits", outcome.code == 0, outcome)
            data("third", 1)
            outcome = run("create", "third", "third")
            b.check("nothing more above the smaller one", outcome.code not in (0, 1), outcome)
            target = b.place.directory("target")
            outcome = run("extract", "first", cwd=target)
            b.check("but what is there is extracted", outcome.code == 0, outcome)
            shutil.rmtree(target)
            outcome = run("delete", "second")
            b.check("and deleted", outcome.code == 0, outcome)
            outcome = run("compact")
            b.check("and compacted", outcome.code == 0 and content(b.store) < 10_000_000, f"{outcome}\n{content(b.store)}")
            outcome = run("create", "third", "third")
            b.check("then it goes on", outcome.code == 0, outcome)
            outcome = client.run("check", "--verify-data", environment={"BORG_REPO": str(b.store)})
            b.check("the original finds no fault", outcome.code == 0, outcome)
            target = b.place.directory("target")
            client.run("extract", "first", cwd=target, environment={"BORG_REPO": str(b.store)})
            first = {name: entry for name, entry in expected.items() if name.startswith("first")}
            b.check("what was backed up is extracted identically", bed.fingerprint(target) == first)
            shutil.rmtree(target)


def main():
    parser = bed.parser(__doc__, limit=300)
    parser.add_argument("--versions", nargs="+", default=VERSIONS, metavar="VERSION", help="clients that meet a quota (all)")
    scenario.add_argument(parser)
    parser.add_argument("--rounds", type=int, default=3, help="of those that store at once (%(default)s)")
    options = bed.parse(parser)
    report = bed.Report()
    for play in scenario.chosen(options):
        play(options, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
