#!/usr/bin/env python3
"""Live stock clients of the HTTP dialect, while their server is killed.

A client of 2.0.0b22 or later does not end with its server: it starts another one, repeats the one request whose answer is
missing and goes on. So whatever was acknowledged has to be there for the next server, too, and not only what a command had
been told to be through with.

For repo-create, create, delete and compact the server is killed by SIGKILL: at a random moment, and at the n-th system call
of a kind (by strace). Then: the client's own retry brings the command to its end (a server that is killed while it makes the
repository is not started again by clients; then they are told); every archive whose command ended with 0 is extracted
identically and `check --verify-data` finds no fault, both by the client's own version upon the directory itself, without any
server; every object has the name of its content; and after the next session no lock and no unfinished file is left.

The original as server under test is expected to fail: it leaves its unfinished files behind for ever.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import bed
import crash
import rawhttp
from differential_rest import digest
from rawhttp import request

VERSIONS = ("2.0.0b22", "2.0.0b25")
COMMANDS = {"repo-create": None, "create": ("create", "fresh", "fresh"), "delete": ("delete", "victim"), "compact": ("compact",)}
scenario = bed.Scenarios()

LASTS = {"repo-create": 0.03, "create": 0.15, "delete": 0.02, "compact": 0.2}  # seconds, less than a server works for it

# Where a server is killed: the system calls, and how many of them it does at most before.
CALLS = {
    "a rename": ("rename,renameat,renameat2,link,linkat", 8),
    "a removal": ("unlink,unlinkat,rmdir", 8),
    "a sync": ("fsync,fdatasync,syncfs,sync_file_range", 12),
    "an opening": ("openat,openat2", 30),
    "a directory": ("mkdir,mkdirat", 6),
    "a write": ("write,pwrite64,writev,sendfile,copy_file_range", 30),
}

# Becomes the server; the one whose turn it is, under strace.
ARMED = """#!/bin/sh
left=$(cat {turn} 2>/dev/null || echo 0)
echo $((left - 1)) > {turn}
[ "$left" = 1 ] || exec "$@"
exec {strace} -qq -f -o {log} -e trace={calls} -e inject={calls}:signal=KILL:when={when} "$@"
"""


class Bed(crash.Bed):
    """A repository of one client's version, which also judges it; small packs, so that there are many."""

    def __init__(self, name, options, report, version, template=None, inside=None):
        super().__init__(f"{version} {name}", options, report, inside, version)
        self.client.environment["BORG_PACK_MAX_COUNT"] = "4"
        self.acknowledged = {}
        if template:
            for folder in ("repository", "home", "source"):
                shutil.copytree(template.place / folder, self.place / folder, symlinks=True, dirs_exist_ok=True)
            self.acknowledged = dict(template.acknowledged)

    def begin(self):
        """Archives to keep, to delete, and one that is deleted whose data share packs with those of one that is kept."""
        self.run("repo-create", *bed.encryption(self.version))
        for number in range(16):
            self.fresh_data("data", 0)
            for kind in ("keep", "drop"):
                (self.source / "data" / f"{number}-{kind}").write_bytes(self.rng.randbytes(30_000))
        self.fresh_data("victim", 6, 30_000)
        self.run("create", "gone", "data")
        self.run("create", "kept", "data", "--exclude", "*-drop")
        self.acknowledged["kept"] = {name: entry for name, entry in bed.fingerprint(self.source).items() if name.startswith("data") and "drop" not in name}
        self.run("create", "victim", "victim")
        self.acknowledged["victim"] = self.part("victim")
        self.run("delete", "gone")
        self.fresh_data("fresh", 40, 30_000)

    def part(self, folder):
        """What is extracted from an archive of one folder."""
        return {name: entry for name, entry in bed.fingerprint(self.source).items() if name.split("/")[0] == folder}

    def alone(self, *arguments, **more):
        """Runs a command upon the directory, without any server."""
        return self.run(*arguments, ok=False, environment={"BORG_REPO": str(self.repository)}, **more)

    def judge(self):
        """Nothing that was acknowledged is missing, and what stands under a name is whole."""
        outcome = self.alone("check", "--verify-data", "-v")
        self.check("the original alone finds no fault", outcome.code == 0 and "no problems found" in outcome.output, outcome)
        wrong = bed.misnamed_objects(self.repository)
        self.check("each object is what its name says", not wrong, wrong[:5])
        for archive, expected in self.acknowledged.items():
            target = self.place.directory("restored")
            outcome = self.alone("extract", archive, cwd=target)
            found = bed.fingerprint(target)
            shutil.rmtree(target)
            self.check(f"archive {archive} is extracted identically", outcome.code == 0 and found == expected,
                       f"{outcome}\n{bed.difference(expected, found)}")

    def afterwards(self):
        """The same data once more, and everything is well."""
        self.run("create", "again", "fresh", "data")
        self.acknowledged = {"again": {**self.part("fresh"), **self.part("data")}}
        self.nothing_left("after the next session")
        self.judge()


def at_a_moment(b, command):
    """Kills the newest server at a random moment; the client's process, and what happened."""
    served = len(b.ours.pids())
    process = b.client.start(*command, cwd=b.source)
    for _ in range(b.rng.randrange(1, 5) if command[0] == "repo-create" else 1):
        bed.wait_until(lambda: process.poll() is not None or len(b.ours.pids()) > served, 30, 0.002)
        served = len(b.ours.pids())
    delay = b.rng.uniform(0, LASTS[command[0]])
    time.sleep(delay)
    server = b.ours.pids()[-1]
    killed = bed.is_alive(server) and process.poll() is None
    if killed:
        os.kill(server, signal.SIGKILL)
    return process, f"after {delay * 1000:.0f} ms" if killed else "it had just ended"


def at_a_call(b, command):
    """Kills a server as it makes a system call."""
    what = b.rng.choice(sorted(CALLS))
    calls, most = CALLS[what]
    if command[0] in ("delete", "repo-create"):
        most = max(1, most // 4)
    when, turn = b.rng.randrange(1, most + 1), b.rng.randrange(1, 5) if command[0] == "repo-create" else 1
    (b.place / "turn").write_text(f"{turn}\n")
    script = b.place / "armed"
    script.write_text(ARMED.format(turn=b.place / "turn", log=b.place / "strace.log", strace=shutil.which("strace"), calls=calls, when=when))
    script.chmod(0o755)
    armed = bed.Pipes(b.place, "armed-server", b.options.server, "--rest", wrapper=[str(script)])
    process = b.client.start(*command, cwd=b.source, environment={"BORG_RSH": armed.rsh, "BORGSTORE_RSH": armed.rsh})
    return process, f"{what}, the {when}." + (f", process {turn}" if turn > 1 else "")


def killed(options, report, hits, version, template, command, how, number):
    words = COMMANDS[command] or ("repo-create", *bed.encryption(version))
    name = f"{command}, killed {'at a moment' if how is at_a_moment else 'at a call'}, round {number + 1}"
    with bed.closing(Bed(name, options, report, version, template if command != "repo-create" else None)) as b:
        process, note = how(b, words)
        output = process.communicate(timeout=90)[0].decode(errors="replace")
        if how is at_a_call:
            log = b.place / "strace.log"
            hit = log.exists() and "killed by SIGKILL" in log.read_text()
            note += "" if hit else ": never came to it"
        if process.returncode == 0:
            lost = "connection lost" in output
            b.check("the command comes to its end", True, note=note + (", tried again" if lost else ""))
        elif command == "repo-create":
            b.check("the client is told", any(words in output for words in ("connection", "exited with code", "exists")), output[-800:], note)
            # What was begun may be in the way, for the administrator to remove.
            if b.run(*words, ok=False).code != 0:
                shutil.rmtree(b.repository, ignore_errors=True)
                b.run(*words)
        elif "server exited with code" in output:
            b.check("the client, which was through, is told", True, note=note)
        else:
            b.check("the command comes to its end", False, f"{note}\n{output[-800:]}")
        hits.append("connection lost" in output or process.returncode != 0)
        if command == "repo-create":
            b.fresh_data("fresh", 6, 30_000)
            b.fresh_data("data", 1, 30_000)
        if command == "create" and process.returncode == 0:
            b.acknowledged["fresh"] = b.part("fresh")
        if command == "delete":
            b.acknowledged.pop("victim")
            listed = b.alone("repo-list", "--format", "{archive}{NL}").output.split()
            b.check("what was deleted is not listed", process.returncode != 0 or "victim" not in listed, listed)
        b.judge()
        b.afterwards()


def can_trace():
    strace = shutil.which("strace")
    return strace and subprocess.run([strace, "-qq", "-o", "/dev/null", "true"], capture_output=True).returncode == 0


@scenario
def server_killed(options, report):
    templates = {}
    for version in options.versions:
        with bed.closing(Bed("beginning", options, report, version)) as b:
            b.begin()
            templates[version] = b
            b.close = lambda: None
    kinds = [at_a_moment, at_a_call] if can_trace() else [at_a_moment]
    if len(kinds) == 1:
        report.skip("killed at system calls", "strace is missing or may not trace")
    plays = [(version, template, command, how, number) for number in range(options.rounds) for how in kinds
             for command in reversed(COMMANDS) for version, template in templates.items()]
    hits = []
    try:
        # Most of the time clients wait until they try again.
        bed.run_beside_each_other([lambda play=play: killed(options, report, hits, *play) for play in plays], 3)
        report.check("enough of the kills came in time", 3 * sum(hits) >= len(hits), f"{sum(hits)} of {len(hits)}", note=f"{sum(hits)} of {len(hits)}")
    finally:
        for template in templates.values():
            template.place.close()


@scenario
def acknowledged_is_there(options, report):
    """Each request that changes something; after its answer the server is killed, and the next one knows of it."""
    place = bed.Place("crash", options.keep)
    try:
        store, rng = place / "repository", random.Random(options.seed)
        server = None

        def ask(*words, body=None):
            nonlocal server
            server = server or rawhttp.Stdio([options.server, "serve", "--rest", "--backend", f"FILE:{store}"])
            headers = [("X-Content-hash-sha256", hashlib.sha256(body).hexdigest())] if body is not None else ()
            return server.exchange(request(*words, body, headers=headers))

        def kill():
            nonlocal server
            server.kill()
            server = None

        def pack(size):
            body = rng.randbytes(size)
            name = digest(body)
            return f"packs/{name[:2]}/{name}", body

        ask("POST", "/?cmd=create")
        ask("POST", "/config/readme", body=b"of a repository")
        (small, little), (large, much) = pack(100), pack(3_000_000)
        merged = digest(little[:50] + much[-50:])
        there = lambda name, body: lambda: ask("GET", f"/{name}").body == body
        gone = lambda name: lambda: ask("HEAD", f"/{name}").status == 404
        index, archive = "index/" + digest(b"index"), "archives/" + "a" * 64
        steps = {
            "a small pack": (("POST", f"/{small}"), little, there(small, little)),
            "a large pack": (("POST", f"/{large}"), much, there(large, much)),
            "a merged pack": (("POST", "/?cmd=defrag&algorithm=sha256&namespace=packs&levels=1"), f'[["{small}", 0, 50], ["{large}", -50, 50]]'.encode(),
                              there(f"packs/{merged[:2]}/{merged}", little[:50] + much[-50:])),
            "an index": (("POST", f"/{index}"), b"index", there(index, b"index")),
            "an archive": (("POST", f"/{archive}"), b"", lambda: ask("HEAD", f"/{archive}").status == 200),
            "a setting": (("POST", "/config/manifest"), b"manifest", there("config/manifest", b"manifest")),
            "a move": (("POST", f"/?cmd=move&current={archive}&new={archive}.del"), b"", gone(archive)),
            "a deletion": (("DELETE", f"/{small}"), None, gone(small)),
            "a directory": (("POST", "/cache?cmd=mkdir"), b"", lambda: ask("GET", "/cache/").status == 200),
        }
        for what, (words, body, holds) in steps.items():
            answer = ask(*words, body=body)
            kill()
            if report.check(f"{what} that was acknowledged is there after a kill", answer.status == 200 and holds(), answer):
                continue
            if body and words[1].startswith("/packs"):  # for the steps after it
                ask(*words, body=body)
                server.end()
                server = None
        server.end()
        left = bed.staged_files(store)
        report.check("no unfinished file is left of what was killed", not left, left[:5])
    finally:
        place.close()


@scenario
def server_killed_amid_packs(options, report):
    """What was acknowledged and not needed yet is there for the server that the client starts after."""
    for version in options.versions:
        with bed.closing(Bed("killed amid packs", options, report, version)) as b:
            b.run("repo-create", *bed.encryption(version))
            b.fresh_data("data", 1, 30_000)
            b.fresh_data("fresh", 40)
            process, server = b.start_and_wait("create", "fresh", "fresh", growth=b.rng.randrange(3, 10))
            os.kill(server, signal.SIGKILL)
            output = process.communicate(timeout=90)[0].decode(errors="replace")
            b.check("the client tries again, and comes to its end", process.returncode == 0 and "connection lost" in output, output[-800:])
            b.acknowledged["fresh"] = b.part("fresh")
            b.judge()
            b.afterwards()


@scenario
def client_killed(options, report):
    """Its lock is its own; everything else goes with it, at once. Not so late that its own order of storing would show:
    2.0.0b22 lists an archive before its index says where the archive is."""
    for version in options.versions:
        with bed.closing(Bed("client killed while creating", options, report, version)) as b:
            b.run("repo-create", *bed.encryption(version))
            b.fresh_data("data", 1, 30_000)
            b.run("create", "kept", "data")
            b.acknowledged["kept"] = b.part("data")
            b.fresh_data("fresh", 40)
            process, server = b.start_and_wait("create", "fresh", "fresh", growth=b.rng.randrange(2, 6))
            os.kill(process.pid, signal.SIGKILL)
            ended = bed.wait_until(lambda: not bed.is_alive(server) and not bed.staged_files(b.repository), crash.PROMPT)
            b.check(f"within {crash.PROMPT:.0f} s the server has ended, and no unfinished file is left", ended is not None,
                    bed.staged_files(b.repository)[:5], f"{(ended or 0) * 1000:.0f} ms")
            process.communicate(timeout=60)
            b.judge()
            b.afterwards()


def main():
    parser = bed.parser(__doc__, limit=600)
    scenario.add_argument(parser)
    parser.add_argument("--rounds", type=int, default=2, help="of the random kills (%(default)s)")
    parser.add_argument("--clients", default=",".join(VERSIONS), help="(%(default)s)")
    options = bed.parse(parser)
    options.versions = options.clients.split(",")
    report = bed.Report()
    for play in scenario.chosen(options):
        play(options, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
