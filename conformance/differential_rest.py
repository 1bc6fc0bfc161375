#!/usr/bin/env python3
"""Plays the same HTTP requests to an original REST server and to ours, and compares whatever can be seen.

Each stream starts both as processes on pipes, each with a store of its own. Compared are: every status; of successes the
body (JSON by its meaning), Content-Type, Content-Length, Cache-Control and X-BorgStore-*; of errors only the status;
after each stream, and wherever it says so, the trees on disk with names, bytes and modes; how the process ends. The
originals are borgstore-server-rest 0.7.0 and `borg serve --rest` of 2.0.0b25 and 2.0.0b22, the latter two with each
permission mode. Streams are tables of steps below, and random ones (`--rounds`, `--seed`), some of them pipelined.

Masked: times, which only have to be there and to be of today, and the sizes of directories. Ignored on disk: `*.tmp`.

Deliberate differences are the closed list DIFFERENCES. Where one applies, ours has to be what it says and the original
is put back to the tree from before. A difference that no stream of a full run needed is a failure too. Ours has to
answer every refused request with a reason in text/plain and stay in step, whatever was in the body.

--server may be an original: then all of OURS is off, and only the differences of its version from the other remain.
This proves the harness:   differential_rest.py --server .build-clients/2.0.0b25/bin/borg
"""

import hashlib
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

sys.dont_write_bytecode = True
import bed
import rawhttp
from rawhttp import request

MODES = ("all", "no-delete", "write-only", "read-only")
NAMESPACES = ("archives", "cache", "config", "index", "keys", "locks", "packs")
SUCCESS = ("content-type", "content-length", "cache-control", "x-borgstore-is-directory")
OLD = "borg 2.0.0b22"  # borgstore 0.5


@dataclass(frozen=True)
class Original:
    """An original server: how it is started, and which version of borgstore it is."""

    name: str
    command: tuple
    old: bool = False  # borgstore 0.5: no mtime, no blake3, no gather
    modes: bool = True  # takes --permissions MODE
    hash: str = "blake3"  # by which its repositories name objects


def originals():
    borg = lambda version: (str(bed.client_path(version)), "serve", "--rest")
    store = bed.client_path("2.0.0b25").with_name("borgstore-server-rest")
    return {"b25": Original("b25", borg("2.0.0b25")), "b22": Original("b22", borg("2.0.0b22"), old=True, hash="sha256"),
            "0.7.0": Original("0.7.0", (str(store), "--stdio"), modes=False)}


def load_blake3():
    try:
        import blake3
    except ImportError:
        for place in sorted(bed.CLIENTS.glob("2.0.0b2[2-9]/lib/python3*/site-packages")):
            sys.path.append(str(place))
        try:
            import blake3
        except ImportError:
            bed.die("the Python package blake3 is missing (any client brings it: scripts/clients 2.0.0b25)")
    return blake3


def digest(data, algorithm="sha256"):
    return load_blake3().blake3(data).hexdigest() if algorithm == "blake3" else hashlib.new(algorithm, data).hexdigest()


# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One thing to do to both sides."""

    kind: str  # ask, alone, cut, disk, restart, compare
    name: str
    data: bytes = b""
    method: str = ""
    target: str = ""
    body: bytes = b""
    headers: tuple = ()
    bodiless: bytes = b""  # what the original is sent instead, because it would leave the body in its input
    statuses: tuple = ()  # of ours, where there is no original to ask (alone), or it cannot answer
    ends: object = False  # whether ours ends after its answer; None: as it likes
    change: object = None
    arguments: tuple = ()

    @property
    def query(self):
        return {key: values[0] for key, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def command(self):
        """What the request is, in one word."""
        cmd = self.query.get("cmd")
        path = self.target.split("?")[0]
        if self.method == "POST":
            return cmd if cmd in ("create", "move", "mkdir", "hash", "quota", "defrag", "gather") else "store"
        if self.method == "DELETE":
            return cmd if cmd in ("rmdir", "destroy") else "delete"
        if self.method == "GET":
            return "list" if path.endswith("/") else "load"
        return "info" if self.method == "HEAD" else self.method

    @property
    def path(self):
        return self.target.split("?")[0].split("#")[0].strip("/")

    def sources(self):
        """What the body of gather and defrag names, as far as it does."""
        try:
            entries = json.loads(self.body)
        except ValueError:
            return []
        return [entry for entry in entries if isinstance(entry, list) and len(entry) == 3] if isinstance(entries, list) else []

    def names(self):
        """All object names in the request, as the server has to understand them."""
        command = self.command
        if command == "move":
            return [self.query.get(key, "") for key in ("current", "new")]
        if command in ("gather", "defrag"):
            named = [entry[0] for entry in self.sources() if isinstance(entry[0], str)]
            return named + [self.query[key].rstrip("/") for key in ("target", "namespace") if command == "defrag" and key in self.query]
        return [] if command in ("create", "destroy", "quota") else [self.path]


def ask(method, target, body=None, *, headers=(), accept=rawhttp.ACCEPT, unread=False, name=None):
    return Step("ask", name or f"{method} {brief(target)}" + (f" {brief(body)}" if body else "") + (f" {brief(list(headers))}" if headers else ""),
                request(method, target, body, headers=headers, accept=accept), method, target, body or b"", tuple(headers),
                request(method, target, headers=headers, accept=accept, length=0) if unread else b"")


def alone(name, data, statuses, ends=False):
    """Only ours is asked, in bytes that might break or hang the original; `statuses` holds None if it may just end."""
    return Step("alone", name, data, statuses=tuple(statuses), ends=ends)


def cut(name, data, first=()):
    """The input ends inside this request: nothing of it may be stored."""
    return Step("cut", name, data, statuses=first)


def disk(change, name=""):
    return Step("disk", name or change.__name__, change=change)


def restart(*arguments):
    """Ends both, compares their exit codes and trees, and starts them again with these options."""
    return Step("restart", "restart " + " ".join(arguments), arguments=arguments)


COMPARE = Step("compare", "compare the trees")


def brief(value):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) < 110 else f"{text[:80]}… ({len(value)})"


def store(name, body=b"", hash=True, cmd="", **more):
    """`hash` is True for the right one, None for no header, or the header's value."""
    headers = [("X-Content-hash-sha256", digest(body) if hash is True else hash)] if hash is not None else []
    return ask("POST", f"/{name}" + (f"?cmd={cmd}" if cmd else ""), body, headers=headers, **more)


def load(name, range=None):
    return ask("GET", f"/{name}", headers=[("Range", range)] if range is not None else [])


def info(name):
    return ask("HEAD", f"/{name}")


def listing(name):
    return ask("GET", f"/{name}/" if name else "/")


def delete(name):
    return ask("DELETE", f"/{name}")


def move(current, new):
    return ask("POST", f"/?cmd=move&current={quote(current, safe='')}&new={quote(new, safe='')}")


def mkdir(name):
    return ask("POST", f"/{name}?cmd=mkdir")


def rmdir(name):
    return ask("DELETE", f"/{name}?cmd=rmdir")


def hashing(name, algorithm=None):
    return ask("POST", f"/{name}?cmd=hash" + (f"&algorithm={algorithm}" if algorithm is not None else ""))


def gather(sources, unread=False):
    return ask("POST", "/?cmd=gather", sources if isinstance(sources, bytes) else json.dumps(sources).encode(), unread=unread)


def defrag(sources, query, unread=False):
    return ask("POST", f"/?cmd=defrag&{query}", sources if isinstance(sources, bytes) else json.dumps(sources).encode(), unread=unread)


CREATE, DESTROY, QUOTA = ask("POST", "/?cmd=create"), ask("DELETE", "/?cmd=destroy"), ask("POST", "/?cmd=quota")


def file(path, content=b"x"):
    def change(base):
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_bytes(content)

    return disk(change, f"write {brief(path)}")


# --- the trees --------------------------------------------------------------------------------------------------------


def tree(base):
    """{path: (kind, mode, bytes)} of a store on disk, its root included; no staging."""
    if not base.is_dir():
        return {"": ("file", 0, base.read_bytes())} if base.exists() else {}
    found = {"": ("directory", stat.S_IMODE(base.stat().st_mode), b"")}
    for folder, directories, files in os.walk(base):
        directories[:] = [name for name in directories if not name.endswith(".tmp")]
        for name in directories + files:
            path = os.path.join(folder, name)
            if name.endswith(".tmp"):
                continue
            mode = stat.S_IMODE(os.lstat(path).st_mode)
            with_bytes = name in files
            found[os.path.relpath(path, base)] = ("file" if with_bytes else "directory", mode, open(path, "rb").read() if with_bytes else b"")
    return found


def different(expected, found):
    """What differs between two trees, with large contents as their hashes."""
    short = lambda tree: {path: (kind, oct(mode), content if len(content) < 80 else f"{len(content)} bytes {digest(content)[:8]}") for path, (kind, mode, content) in tree.items()}
    return bed.difference(short(expected), short(found))


def put_back(base, wanted):
    """Makes the store on disk what `tree` said; the base directory itself stays, if it is one."""
    if base.is_dir():
        for entry in base.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    for path, (kind, mode, content) in sorted(wanted.items()):
        if kind == "directory":
            (base / path).mkdir(parents=True, exist_ok=True)
        else:
            (base / path).write_bytes(content)
        (base / path).chmod(mode)


def is_removable(before):
    """Whether ours takes a tree for a repository, or for a store that holds nothing."""
    is_file = lambda name: before.get(f"config/{name}", ("",))[0] == "file"
    if is_file("readme") or is_file("config") or is_file("version") and is_file("id"):
        return all(path.split("/")[0] in ("", "data", *NAMESPACES) for path in before)
    return all(kind == "directory" for kind, _, _ in before.values())


# --- names of Borg ----------------------------------------------------------------------------------------------------

HEX = set("0123456789abcdef")
IMMUTABLE = ("config/readme", "config/version", "config/id", "config/config")


def is_hash(text):
    return len(text) == 64 and set(text) <= HEX


def is_borgs(name):
    """Whether Borg 2.0.0b22 to b25 has objects of that name."""
    space, _, rest = name.partition("/")
    if space == "packs":
        return rest[2:3] == "/" and is_hash(rest[3:]) and rest[:2] == rest[3:5]
    if space == "archives":
        return is_hash(rest.removesuffix(".del"))
    if space in ("index", "keys", "locks"):
        return is_hash(rest)
    if space == "cache":
        return rest in ("chunkindex-invalid", "checked-packs") or rest.startswith("referenced-by-archive.") and is_hash(rest[22:])
    return space == "config" and (name in IMMUTABLE or rest in ("manifest", "defaults") or rest.removeprefix("space-reserve.").isdigit())


def is_borgs_directory(name):
    return name in NAMESPACES or name.startswith("packs/") and len(name) == 8 and set(name[6:]) <= HEX


def is_soft_deletion(current, new):
    return is_borgs(current) and current.startswith("archives/") and (new == f"{current}.del" or current == f"{new}.del")


def is_named_by_content(name):
    return is_borgs(name) and name.split("/")[0] in ("packs", "index", "keys", "locks")


def has_its_content(name, body):
    return name.rsplit("/", 1)[1] in (digest(body), digest(body, "blake3"))


# --- deliberate differences -------------------------------------------------------------------------------------------


@dataclass
class Case:
    """One request, the store before it, and what both answered; `original` is None where it ended, hung or garbled."""

    step: Step
    side: Original
    mode: str
    before: dict
    original: object
    ours: object = None

    @property
    def theirs(self):
        """The original's status, None where it gave none."""
        return self.original and self.original.status

    def kind(self, name):
        return self.before.get(name, ("", 0, b""))[0]

    def content(self, name):
        return self.before[name][2]

    def below_a_file(self, name):
        parts = name.split("/")
        return any(self.kind("/".join(parts[:count])) == "file" for count in range(1, len(parts)))

    @property
    def range(self):
        return next((value for key, value in self.step.headers if key == "Range"), None)


def strict_name(name):
    """A name that the original takes and ours does not."""
    try:
        name.encode("ascii")
    except UnicodeEncodeError:
        return True
    parts = name.split("/")
    return name != "" and (any(part in ("", ".") or part.endswith((".tmp", ".hid")) for part in parts) or
                           any(not 0x20 < ord(character) < 0x7F for character in name))


def original_refuses(name):
    """Whether the original refuses it, as validate_name of borgstore does."""
    return len(name) > 100 or not name.isascii() or name.startswith("/") or name.endswith(("/", ".tmp", ".hid")) or ".." in name or "\\" in name or " " in name or name != name.lower()


def numbers(range):
    """The two of A-B, else None."""
    first, dash, last = (range or "").removeprefix("bytes=").partition("-")
    return (int(first), int(last)) if (range or "").startswith("bytes=") and first.isdigit() and last.isdigit() else None


def understood(range):
    first, dash, last = range.removeprefix("bytes=").partition("-")
    return range.startswith("bytes=") and dash == "-" and (first + last).isdigit()


class Differences(dict):
    """By name: (of whom, why, when it applies, what ours has to be). The first that applies counts."""

    def __init__(self):
        self.used = {}

    def add(self, name, whose, why, when, demand):
        self[name] = (whose, why, when, demand)

    def of(self, case, original_under_test):
        for name, (whose, why, when, demand) in self.items():
            if whose == "ours" and original_under_test or whose == "old" and (not case.side.old or original_under_test == OLD):
                continue
            if when(case):
                self.used[name] = self.used.get(name, 0) + 1
                return name, demand
        return None, None


def status(*codes):
    return lambda case: None if case.ours.status in codes else f"expected {' or '.join(map(str, codes))}"


def whole(code):
    def demand(case):
        if case.ours.status != code or case.ours.body != case.content(case.step.path):
            return f"expected {code} and the whole object"

    return demand


def failed_as(*codes):
    return lambda case: case.original is not None and case.original.status in codes


DIFFERENCES = Differences()
add = DIFFERENCES.add
READS = ("load",)

add("stricter names", "ours", "empty and . components, reserved endings inside and control characters are refused",
    lambda case: any(map(strict_name, case.step.names())) and (case.theirs not in (406, 410, 501)),
    status(400))
add("levels", "ours", "the original dies of levels that are no number",
    lambda case: case.step.command == "defrag" and case.theirs is None, status(400))
add("destroy", "ours", "what is neither a Borg repository nor empty is not removed",
    lambda case: case.step.command == "destroy" and case.mode == "all" and case.theirs == 200 and not is_removable(case.before),
    status(409))
add("root", "ours", "the root of a store is not removed as a directory",
    lambda case: case.step.command == "rmdir" and case.step.path == "" and case.theirs in (200, 500), status(400, 409))
add("backwards by one", "ours", "the original takes bytes=5-3 as from 5 to the end",
    lambda case: case.step.command in READS and (numbers(case.range) or (0, 0))[1] == (numbers(case.range) or (0, 0))[0] - 2 and case.theirs == 206,
    status(400))
add("long suffix", "ours", "a suffix longer than the object is the whole object, not an internal error",
    lambda case: case.step.command in READS and case.theirs == 500 and case.kind(case.step.path) == "file" and (case.range or "").startswith("bytes=-"),
    whole(206))
add("ignored range", "ours", "a range that is not understood is ignored, and its answer does not say 206",
    lambda case: case.step.command in READS and case.theirs == 206 and case.range and not understood(case.range), whole(200))
add("sources that are no array", "ours", "the original iterates over whatever the JSON is",
    lambda case: case.step.command in ("gather", "defrag") and case.theirs == 200 and not case.step.body.strip().startswith(b"["),
    status(400))
add("names of nothing", "ours", "the names of sources are looked at even where nothing is wanted of them",
    lambda case: case.step.command in ("gather", "defrag") and case.theirs in (200, 404, 409, 416) and any(isinstance(entry[0], str) and original_refuses(entry[0]) for entry in case.step.sources()),
    status(400))
add("no name", "ours", "a source without a name is a wrong request, not an internal error",
    lambda case: case.step.command in ("gather", "defrag") and case.theirs == 500 and any(entry[0] == "" for entry in case.step.sources()), status(400))
add("huge range", "ours", "the original takes memory for as much as is asked for, if it can",
    lambda case: case.step.command in READS and case.theirs == 500 and case.kind(case.step.path) == "file" and (numbers(case.range) or (0, 0))[1] >> 40,
    lambda case: None if (case.ours.status, case.ours.body) == (206, case.content(case.step.path)[numbers(case.range)[0]:]) else "expected 206 and what there is")
add("before the start", "ours", "a source that begins before its object is a short read, or its object is missing, but no internal error",
    lambda case: case.step.command in ("gather", "defrag") and case.theirs == 500 and any(
        isinstance(entry[1], int) and (entry[1] < 0 or entry[1] >> 63) or isinstance(entry[2], int) and entry[2] >> 62 for entry in case.step.sources()),
    status(400, 404, 409, 416))
add("below a file", "old", "0.5.5 stumbles over names below a file, which are missing to its successors",
    lambda case: case.theirs == 500 and (case.step.command in ("load", "info", "delete", "hash") and case.below_a_file(case.step.path) or
                  case.step.command == "defrag" and any(isinstance(entry[0], str) and case.below_a_file(entry[0]) for entry in case.step.sources())),
    status(404))
add("conflicts below a file", "ours", "a name below a file is a conflict, or missing, but no internal error",
    lambda case: case.theirs == 500 and any(map(case.below_a_file, case.step.names())), status(404, 409))
add("conflicts", "ours", "files where directories should be, and the other way round, are conflicts, not internal errors",
    failed_as(500), status(409))
add("onto a directory", "ours", "nothing is moved onto a directory, not even a directory onto an empty one",
    lambda case: case.step.command == "move" and case.theirs in (200, 404) and case.kind(case.step.query.get("new", "")) == "directory",
    status(404, 409))
add("directories stay", "ours", "only objects are moved", lambda case: case.step.command == "move" and case.theirs == 200 and case.kind(case.step.query["current"]) == "directory",
    status(409))
add("other algorithms", "ours", "only sha256 and blake3 are needed; what else there is has to be right",
    lambda case: case.step.command in ("hash", "defrag") and case.theirs == 200 and case.step.query.get("algorithm", "sha256") not in ("sha256", "blake3"),
    lambda case: None if case.ours.status == 400 or (case.ours.status, case.ours.body) == (200, case.original.body) else "expected the same, or 400")
add("blake3", "old", "0.5.5 has no blake3", lambda case: case.step.query.get("algorithm") == "blake3" and case.theirs == 400,
    lambda case: None if case.ours.status == 200 else "expected 200")
add("gather", "old", "0.5.5 has no gather", lambda case: case.step.command == "gather" and case.theirs == 400,
    lambda case: None if case.ours.status == 200 else "expected 200")
add("sizes", "old", "0.5.5 takes sizes that its successors refuse", lambda case: case.step.command == "defrag" and case.theirs == 416,
    status(400, 416))

def named_mode(case):
    return case.mode != "all" and case.original is not None


def written(case):
    """The name that the request would write to, or None."""
    if case.step.command == "defrag" and case.original.status == 200:
        return case.original.body.decode()
    return {"store": case.step.path, "mkdir": case.step.path, "move": case.step.query.get("new"), "defrag": case.step.query.get("target")}.get(case.step.command)


add("only Borg's names", "ours", "under a named mode nothing is written that Borg does not have",
    lambda case: named_mode(case) and case.theirs == 200 and written(case) and not (
        is_borgs_directory(written(case)) if case.step.command == "mkdir" else is_borgs(written(case))),
    status(403))
add("immutable", "ours", "under a named mode a repository's identity is never written again",
    lambda case: named_mode(case) and case.theirs == 200 and case.step.command in ("store", "move", "defrag") and
    written(case) in IMMUTABLE and case.kind(written(case)) == "file",
    # Written again as it is, it is not changed.
    lambda case: None if case.ours.status == 403 or case.ours.status == 200 and case.content(written(case)) == case.step.body else "expected 403")
add("only archives are moved", "ours", "under a named mode nothing is moved but an archive, to and from its soft deletion",
    lambda case: named_mode(case) and case.step.command == "move" and case.theirs in (200, 404) and not is_soft_deletion(case.step.query["current"], case.step.query["new"]),
    status(403))
add("parents of nothing", "ours", "no directories are made for an object that is not there",
    lambda case: case.step.command == "move" and case.theirs == 404, lambda case: None if case.ours.status == 404 or named_mode(case) and case.ours.status == 403 else "expected 404")
add("content and name", "ours", "under a named mode what is named by its content has to have that content",
    lambda case: named_mode(case) and case.theirs in (200, 403) and case.step.command == "store" and is_named_by_content(written(case)) and
    not has_its_content(written(case), case.step.body),
    status(403, 422))
add("whole again", "ours", "under a named mode storing what is there already, whole, succeeds wherever something new could be stored",
    lambda case: named_mode(case) and case.theirs == 403 and case.step.command == "store" and is_borgs(written(case)) and case.kind(written(case)) == "file" and
    case.content(written(case)) == case.step.body and written(case).split("/")[0] in (("locks",) if case.mode == "read-only" else ("archives", "locks", "packs")),
    status(200))


# --- both sides -------------------------------------------------------------------------------------------------------


class Side:
    def __init__(self, name, directory, command):
        self.name, self.directory, self.command = name, directory, list(command)
        self.base = directory / "store"
        directory.mkdir()
        self.arguments, self.process = (), None
        self.environment = {"PATH": os.environ.get("PATH", ""), "HOME": str(directory), "LANG": "C.UTF-8"}

    @property
    def connection(self):
        if self.process is None:
            self.process = rawhttp.Stdio([*self.command, "--backend", "FILE:store", *self.arguments], cwd=self.directory, environment=self.environment)
        return self.process

    def end(self):
        """The exit code, and what came unasked; None when it was never started."""
        process, self.process = self.process, None
        if process is None:
            return None, b""
        code, left = process.end()
        self.said = process.errors()
        return code, left

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process = None


class Stream:
    """One original and ours side by side; `play` gives the complaints."""

    def __init__(self, original, options, place, number, is_original):
        self.original, self.is_original = original, is_original
        directory = place.directory(f"stream-{number}")
        self.theirs = Side("original", directory / "original", original.command)
        self.ours = Side("ours", directory / "ours", (options.server, "serve", "--rest", "--restrict-to-path", directory / "ours"))
        self.mode, self.directory, self.complaints, self.count = "all", directory, [], 0

    def complain(self, step, what):
        self.complaints.append(f"step {self.count} [{self.original.name} {self.mode}]: {step.name}\n    {what}")

    def play(self, steps):
        for step in steps:
            self.count += 1
            try:
                getattr(self, f"_{step.kind}")(step)
            except (rawhttp.Hangup, rawhttp.Garbled) as error:
                self.complain(step, f"{error!r}\n{self._said()}")
                self.ours.kill()
                self.theirs.kill()
            if len(self.complaints) > 3:
                break
        self._restart(restart())
        shutil.rmtree(self.directory, ignore_errors=True)
        return self.complaints

    def play_pipelined(self, steps):
        """All requests first, then all answers; the originals' mistakes are not in it."""
        steps = list(steps)
        for side in (self.theirs, self.ours):
            side.connection.send(b"".join(step.data for step in steps))
        for step in steps:
            self.count += 1
            try:
                answers = [side.connection.response(step.method == "HEAD") for side in (self.theirs, self.ours)]
            except (rawhttp.Hangup, rawhttp.Garbled) as error:
                self.complain(step, repr(error))
                break
            self._judge(Case(step, self.original, self.mode, {}, answers[0], answers[1]), only_status=answers[0].status >= 400)
        self._restart(restart())
        shutil.rmtree(self.directory, ignore_errors=True)
        return self.complaints

    def _said(self):
        return "".join(side.process.errors()[-800:] for side in (self.ours,) if side.process)

    def _ask(self, step):
        before = tree(self.theirs.base)
        try:
            theirs = self.theirs.connection.exchange(step.bodiless or step.data, timeout=20)
        except (rawhttp.Hangup, rawhttp.Garbled):
            theirs = None
            self.theirs.kill()
        try:
            ours = self.ours.connection.exchange((self.is_original and step.bodiless) or step.data, timeout=20)
        except (rawhttp.Hangup, rawhttp.Garbled) as error:
            if self.is_original and theirs is None:
                self.ours.kill()
                return
            raise error
        case = Case(step, self.original, self.mode, before, theirs, ours)
        if self._judge(case) and ours.status >= 400 and tree(self.theirs.base) != before:
            put_back(self.theirs.base, before)

    def _judge(self, case, only_status=False):
        """Whether a deliberate difference applied."""
        name, demand = DIFFERENCES.of(case, self.is_original) if case.before or case.original is None or case.original.status == 410 else (None, None)
        if demand:
            wrong = demand(case)
            if wrong:
                self.complain(case.step, f"{name}: {wrong}\n    ours: {case.ours}\n    original: {case.original}")
        elif case.original is None:
            if not (self.is_original or case.ours.status == 400):
                self.complain(case.step, f"the original did not answer, and ours not with 400: {case.ours}")
        elif not case.before and {case.original.status, case.ours.status} == {400, 410}:
            pass  # both are wrong, the request and the store
        elif case.ours.status != case.original.status:
            self.complain(case.step, f"ours: {case.ours}\n    original: {case.original}")
        elif case.ours.status < 300 and not only_status:
            wrong = compare(case)
            if wrong:
                self.complain(case.step, "\n    ".join(wrong))
        if case.ours.status >= 400 and not self.is_original:
            wrong = bad_error(case.step, case.ours)
            if wrong:
                self.complain(case.step, f"{wrong}\n    ours: {case.ours} {case.ours.headers}")
        return bool(demand)

    def _alone(self, step):
        if self.is_original:
            return
        before = tree(self.ours.base)
        connection = self.ours.connection
        connection.send(step.data)
        try:
            answer = connection.response(step.data.startswith(b"HEAD "), timeout=20)
        except rawhttp.Hangup:
            answer = None
            if not connection.ended:
                raise
        found = answer.status if answer else None
        if found not in step.statuses:
            self.complain(step, f"ours: {answer}, expected {step.statuses}")
        if answer is not None and answer.status >= 400 and (wrong := bad_error(step, answer, closing=step.ends is not False)):
            self.complain(step, f"{wrong}\n    ours: {answer} {answer.headers}")
        if step.ends is None and connection.ended:
            self.ours.kill()
        elif step.ends or answer is None:
            try:
                left = connection.rest(20)
                code = connection.process.wait(20)
            except (rawhttp.Hangup, subprocess.TimeoutExpired):
                self.complain(step, "it has to end after that, because where the next request begins is not known")
                left, code = b"", 1
            self.ours.kill()
            if left:
                self.complain(step, f"more came after the answer: {left[:200]!r}")
            if code == 0:
                self.complain(step, "it ended with exit code 0")
        if tree(self.ours.base) != before:
            self.complain(step, "the store is another one now:\n" + different(before, tree(self.ours.base)))

    def _cut(self, step):
        before = tree(self.theirs.base)
        connection = self.ours.connection
        connection.send(step.data)
        code, left = self.ours.end()
        if code == "timeout":
            self.complain(step, "no end after its input ended")
        if not self.is_original and tree(self.ours.base) != before:
            self.complain(step, "something was stored:\n" + different(before, tree(self.ours.base)))
        if self.is_original:
            put_back(self.ours.base, before)

    def _disk(self, step):
        self._compare(step)
        for side in (self.theirs, self.ours):
            step.change(side.base)

    def _compare(self, step):
        """Ends ours, which may hold something back until then; the original does not."""
        self._ended(self.ours, step)
        found = different(tree(self.theirs.base), tree(self.ours.base))
        if found:
            self.complain(step, f"what is on disk differs (expected: the original's):\n{found}")

    def _ended(self, side, step):
        code, left = side.end()
        if left:
            self.complain(step, f"{side.name} sent what nobody asked for: {left[:300]!r}")
        if code not in (None, 0):
            self.complain(step, f"{side.name} ended with exit code {code}\n{side.said[-800:]}")

    def _restart(self, step):
        self._ended(self.theirs, step)
        self._compare(step)
        self.theirs.arguments = self.ours.arguments = step.arguments
        self.mode = step.arguments[1] if step.arguments else "all"


def compare(case):
    """What of two successes differs, as far as clients look."""
    wrong, ours, theirs, step = [], case.ours, case.original, case.step
    is_directory = theirs.header("x-borgstore-is-directory") == "true"
    for name in SUCCESS:
        if name == "content-length" and (is_directory or step.command in ("list", "quota")):
            continue
        if ours.header(name) != theirs.header(name):
            wrong.append(f"{name}: ours {ours.header(name)!r}, original {theirs.header(name)!r}")
    if step.command == "info":
        for name in ["x-borgstore-atime", "x-borgstore-mtime"]:
            if theirs.header(name) is None and case.side.old:
                continue
            if not is_now(ours.header(name)):
                wrong.append(f"{name}: ours {ours.header(name)!r}, original {theirs.header(name)!r}")
    if step.command == "list":
        try:
            if meaning(ours) != meaning(theirs):
                wrong.append(f"ours lists {meaning(ours)}\n    original   {meaning(theirs)}")
            names = ("atime", "mtime") if not case.side.old else ("atime",)
            wrong += [f"{name} of {item}" for item in ours.json() for name in names if not is_now(item.get(name))]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            wrong.append(f"{error!r} in {ours.body!r}")
    elif step.command == "quota":
        if ours.json() != theirs.json():
            wrong.append(f"ours {ours.body}, original {theirs.body}")
    elif ours.body != theirs.body:
        wrong.append(f"body: ours {brief(ours.body)}, original {brief(theirs.body)}")
    if ours.header("content-range") is not None and ours.status != 206:
        wrong.append(f"a Content-Range in a {ours.status}")
    return wrong


def meaning(answer):
    return [(item["name"], None if item["directory"] else item["size"], item["directory"]) for item in answer.json()]


def is_now(value):
    """A time that is there and of today; as JSON it has to be a number."""
    try:
        return abs(float(value) - time.time()) < 86400
    except (TypeError, ValueError):
        return False


def bad_error(step, answer, closing=False):
    """What is wrong with an error of ours as such."""
    kind, body = answer.header("content-type") or "", answer.body.decode(errors="replace")
    if step.method != "HEAD" and not step.data.startswith(b"HEAD ") and answer.status not in (401, 422) and not kind.startswith("text/plain"):
        return f"an error has to be text/plain, not {kind!r}"
    if step.method != "HEAD" and not step.data.startswith(b"HEAD ") and not body.strip():
        return "an error without a reason"
    if "<html" in body.lower() or "traceback" in body.lower() or "/tmp/" in body:
        return "an error with more in it than a reason"
    if (answer.header("connection") or "").lower() == "close" and not closing:
        return "an error must not close the connection"
    if any(len(name) > 3 and name in answer.reason for name in step.names() if step.method):
        return "what the client sent stands in the status line"
    if "X-Evil" in dict(answer.headers):
        return "what the client sent became a header"
    return None


# --- the streams ------------------------------------------------------------------------------------------------------

STREAMS = {}


def stream(*which):
    """Makes a function of an original known, with the originals that it is played to."""
    def known(function):
        STREAMS[function.__name__] = (function, which)
        return function

    return known


EVIL = b"DELETE /keep HTTP/1.1\r\nAccept: " + rawhttp.ACCEPT.encode() + b"\r\nContent-Length: 0\r\n\r\n"
TEN = b"0123456789"


@stream("b25", "b22", "0.7.0")
def no_store(original):
    """410 for everything but create and destroy."""
    yield from (load("config/id"), info("config/id"), info(""), listing("config"), listing(""), ask("GET", "//"), delete("a/b"), move("a/b", "a/c"),
                mkdir("a"), rmdir("a"), hashing("a/b"), store("a/b", b"x"), store("a/b", b"x", hash=None), QUOTA, DESTROY,
                defrag([["a/b", 0, 1]], "target=a/c"), defrag([], "algorithm=sha256"))
    yield store("a/b", b"x", hash="0" * 64)
    yield CREATE
    yield from (listing(""), ask("GET", "//"), info(""), CREATE, load("config/id"), listing("config"), info("config"), DESTROY, listing(""), DESTROY)
    yield CREATE
    yield from (mkdir("packs"), CREATE, rmdir("packs"), CREATE)


@stream("b25", "b22", "0.7.0")
def objects(original):
    yield CREATE
    for body in (b"", b"x", TEN, bytes(range(256)) * 20, b"\r\n\r\nGET / HTTP/1.1\r\n\r\n"):
        for name in ("a/one", "b/00/two", "three"):
            yield from (store(name, body), load(name), info(name), hashing(name), hashing(name, "sha256"))
    yield from (store("a/none", TEN, hash=None), load("a/none"))
    for wrong in ("0" * 64, digest(TEN).upper(), digest(TEN)[:-1], "x", digest(TEN) + "0"):
        yield from (store("a/wrong", TEN, hash=wrong), info("a/wrong"))
    yield store("a/empty-header", TEN, hash="")
    yield from (listing(""), listing("a"), listing("b"), listing("b/00"), listing("missing"), ask("GET", "//"), ask("GET", "//a/"), ask("GET", "/a//"))
    yield from (info("a"), info("a/"), info(""), info("a/one/"), info("missing"), info("a/missing"), load("missing"), load("a/missing"))
    yield from (ask("GET", "//a/one"), ask("GET", "/a/one?cmd=delete"), ask("HEAD", "/a/one?cmd=create"), ask("GET", "/a/one?x=y&z"))
    yield from (store("a/slash/", b"s"), load("a/slash"), delete("a/slash/"), load("a/slash"))
    for cmd in ("nonsense", "destroy", "", "STORE", "Hash"):
        yield from (store("a/plain", cmd.encode(), cmd=cmd or "&cmd="), load("a/plain"))
    yield from (ask("DELETE", "/a/plain?cmd=nonsense"), load("a/plain"), ask("DELETE", "/?cmd=nonsense"), ask("DELETE", "/"), ask("POST", "/"),
                ask("POST", "/?cmd=nonsense"), ask("POST", "/?cmd=hash"), QUOTA, ask("POST", "/a/one?cmd=quota"))
    yield COMPARE
    yield from (move("a/one", "a/one.del"), load("a/one"), load("a/one.del"), listing("a"), move("a/one.del", "a/one"), load("a/one"),
                move("a/one", "new/deep/er/one"), load("new/deep/er/one"), move("a/missing", "a/x"), move("a/missing", "fresh/x"), listing("fresh"),
                move("three", "a/none"), load("a/none"), move("a/none", "a/none"), load("a/none"))
    for query in ("", "current=a/none", "new=a/x", "current=&new=a/x", "current=a/none&new=", "current=a%2Fnone&new=a%2Fdecoded",
                  "current=a/decoded&current=a/x&new=a/first&new=a/second", "new=a/named&current=a/first", "current=a%2Bb&new=x", "Current=a/named&New=x"):
        yield ask("POST", f"/?cmd=move&{query}")
    yield listing("a")
    yield from (store("a/empty", b""), delete("a/empty"), delete("a/empty"), delete("never"), load("a/empty"))
    yield from (mkdir("m"), mkdir("m"), mkdir("m/deep/er"), listing("m"), rmdir("m"), rmdir("m/deep/er"), rmdir("m/deep"), rmdir("m"), rmdir("m"), listing("m"))
    yield from (ask("POST", "/?cmd=mkdir"), ask("DELETE", "/?cmd=rmdir"), listing(""))
    if not original.old:
        yield from (hashing("a/named", "blake3"), hashing("missing", "blake3"))
    yield from (hashing("missing"), hashing("a/named", "nonsense"), hashing("a/named", "shake_128"), hashing("a/named", "sha512"), hashing("a/named", "SHA256"),
                hashing("a/named", ""))
    if original.old:
        yield from (hashing("a/named", "blake3"), gather([], unread=True), gather([["a/named", 0, 1]], unread=True))
    large = random.Random(1).randbytes(3 << 20)
    yield from (store("packs/large", large), load("packs/large"), load("packs/large", "bytes=1048570-2097160"), load("packs/large", "bytes=-70000"), hashing("packs/large"))
    yield from (store("packs/large", large[:-1], hash=digest(large)), info("packs/large"), store("packs/large", b"small"), load("packs/large"))


@stream("b25", "b22", "0.7.0")
def ranges(original):
    yield CREATE
    for size in (0, 1, 10):
        yield store(f"a/{size}", TEN[:size])
        for range in ("0-3", "2-", "-4", "5-100", "10-12", "10-", "100-200", "100-", "5-4", "5-3", "5-2", "9-9", "0-0", "0-9", "0-", "-0", "-1", "-10", "-100",
                      "1-0", "4-1", "0-1,3-4", "-1,-2", "", "-", "x", "x-y", "1-x", "--3", "3", "1-2-3", "0x1-2", "18446744073709551616-18446744073709551620",
                      "0-99999999999999999", "9223372036854775807-", "9223372036854775808-", "0-18446744073709551615", "-9223372036854775808", "-99999999999999999999"):
            if any(len(part) > 18 for part in range.split("-")):
                continue  # beyond what a file can have: played alone below
            yield load(f"a/{size}", f"bytes={range}")
        for range in ("items=0-3", "bytes", "bytes:0-3", "0-3", "=0-3", "lines=1-2,3-4"):
            yield load(f"a/{size}", range)
    for range in ("0-3", "nonsense"):
        yield from (load("missing", f"bytes={range}"), load("a", f"bytes={range}"), ask("GET", "/a/", headers=[("Range", f"bytes={range}")]),
                    ask("HEAD", "/a/10", headers=[("Range", f"bytes={range}")]))
    for range in ("18446744073709551616-18446744073709551620", "9223372036854775808-", "9223372036854775807-", "99999999999999999999-"):
        yield alone(f"range {range}", request("GET", "/a/10", headers=[("Range", f"bytes={range}")]), (200, 206, 400))
    for range in ("0-18446744073709551615", "-9223372036854775808", "-99999999999999999999"):
        yield alone(f"range {range}", request("GET", "/a/10", headers=[("Range", f"bytes={range}")]), (200, 206, 400))
    yield load("a/10")


@stream("b25", "b22", "0.7.0")
def conflicts(original):
    """Files where directories should be, and the other way round."""
    yield CREATE
    yield from (store("f", TEN), store("d/x", TEN), mkdir("empty"), mkdir("full/inside"))
    for name in ("d", "empty", "full"):
        yield from (load(name), load(name, "bytes=0-1"), delete(name), hashing(name), store(name, b"onto"), info(name))
    yield from (rmdir("d"), rmdir("full"), rmdir("f"), mkdir("f"), mkdir("d/x"), mkdir("f/below"), listing("f"), listing("d/x"), rmdir("f/below"))
    yield from (load("f/below"), info("f/below"), delete("f/below"), hashing("f/below"), store("f/below", b"x"), listing("f/below"), load("f/below/deeper"))
    yield from (move("f", "d"), move("f", "empty"), move("f", "full"), move("d", "f"), move("full", "d"), move("full", "empty"), move("d", "f/below"),
                move("f", "d/x/y"), move("f/below", "g"), move("missing", "d"), move("d", "d"), load("f"))
    if not original.old:
        yield from (gather([["d", 0, 1]]), gather([["f", 0, 1], ["d", 0, 1]]), gather([["f/below", 0, 1]]), gather([["d", 0, 0]]))
    yield from (defrag([["d", 0, 1]], "target=z"), defrag([["f", 0, 1]], "target=d"), defrag([["f", 0, 1]], "target=f/below"))
    yield from (listing(""), listing("d"), listing("full"), QUOTA)
    # A store whose place is taken by a file.
    yield COMPARE
    def replaced(base):
        shutil.rmtree(base)
        base.write_bytes(b"a file")

    yield disk(replaced, "the store becomes a file")
    yield from (load("f"), listing(""), CREATE, QUOTA)


NAMES = ["a/" + "x" * 98, "a/" + "x" * 99, "x" * 100, "x" * 101, "A", "a/B", "a/b c", "a\\b", "..", "a/..", "../a", "a/../b", "a..b", "..a", "a..", "...", ".", "./a",
         "a/.", "a/./b", "a//b", "a///b", ".hidden", "a/.b", "a/b.", "x.tmp", "x.hid", "a/x.tmp", "a/x.hid", "x.tmp/y", "x.hid/y", "a/x.tmp/y", ".tmp", ".hid",
         "tmp", "hid", "x.tmpx", "xtmp", "x.del", "a/x.del", "quota.hid", "quota", "a:b", "a;b", "a*b", "a[b]", "a,b", "a=b", "a~b", "~", "~root", "a!b", "a@b", "a$b", "a'b",
         'a"b', "a(b)", "a|b", "a{b}", "a^b", "a`b", "a<b>", "-", "--help", "-rf", "_", "con", "nul", "a\x01b", "a\x7fb", "0", "00/00", "a/b/c/d/e/f/g/h/i/j/k", "é", "ü/x", "\u2603"]


@stream("b25", "0.7.0")
def names(original):
    """Every kind of name, in the path, in queries and in JSON."""
    yield CREATE
    yield store("keep", TEN)
    for name in NAMES:
        # What cannot stand in a request line at all has its own streams.
        if all(0x20 < ord(character) < 0x7F for character in name):
            yield from (store(name, b"1"), load(name), info(name), listing(name), hashing(name), mkdir(f"{name}"), delete(name))
        yield from (gather([[name, 0, 0]]), gather([[name, 0, 1]]))
        yield from (move(name, "moved"), move("keep", name) , store("keep", TEN), delete(name) if name.isascii() and name.isprintable() and " " not in name else listing(""))
        yield defrag([["keep", 0, 1]], f"target={quote(name, safe='')}")
        yield defrag([["keep", 0, 1]], f"algorithm=sha256&namespace={quote(name, safe='')}&levels=1")
    for name in ("a%20b", "a%2Fb", "a%2fb", "%61", "%2e%2e/x", "%2e%2e%2fx", "%252e%252e/x", "a%00b", "a%0d%0ab", "%", "%zz", "%2e", "..%2f..%2fetc", "a%5cb", "%c3%a9"):
        yield from (store(name, b"1"), load(name), info(name), listing(name), delete(name), mkdir(name))
    for name in ("\xe9", "a/\xff", "\x80"):
        yield from (load(name), info(name), store(name, b"x"))
    yield from (ask("POST", "/?cmd=move&current=keep&new=a%2520b"), ask("POST", "/?cmd=move&current=a+b&new=x"), ask("POST", "/?cmd=move&current=%zz&new=x"),
                ask("POST", "/?cmd=move&current=keep&new=/abs"), ask("POST", "/?cmd=move&current=keep&new=x/"), ask("POST", "/?cmd=move&current=/keep&new=x"),
                ask("POST", "/?cmd=move&current=%E2%98%83&new=x"), ask("POST", "/?cmd=move&current=keep&new=%E2%98%83"),
                ask("POST", "/?cmd=move&current=x%0D%0AX-Evil:%201&new=y"), ask("POST", "/?cmd=move&current=x%0D%0A%0D%0AHTTP/1.1&new=y"),
                ask("POST", "/?cmd=move&current=keep&new=x%00"))
    yield gather([["x\r\nX-Evil: 1", 0, 1]])
    yield gather(b'[["\\u006beep", 0, 4]]')
    yield from (listing(""), load("keep"))


@stream("b25", "b22", "0.7.0")
def foreign_files(original):
    """What is in the directory and cannot be a name is not listed."""
    yield CREATE
    yield store("a/x", TEN)
    for name in ("Upper", "with blank", "x.hid", "y.tmp", "back\\slash", "x" * 101, "a..b", "\u00e9", ".dot", "gone.del", "ok"):
        yield file(f"a/{name}", b"foreign")
    yield disk(lambda base: (base / "a/Directory").mkdir())
    yield disk(lambda base: (base / "a/.d").mkdir())
    yield from (listing("a"), listing(""), info("a/ok"), load("a/ok"), rmdir("a"))


@stream("b25", "0.7.0")
def gathering(original):
    yield CREATE
    yield from (store("p/a", TEN), store("p/b", b"abc"), store("p/e", b""))
    for sources in ([], [["p/a", 0, 10]], [["p/a", 2, 3], ["p/b", 0, 3], ["p/a", 2, 3]], [["p/a", -3, 2]], [["p/a", -10, 10]], [["p/a", -11, 1]], [["p/a", 0, 11]],
                    [["p/a", 10, 1]], [["p/a", 10, 0]], [["p/a", 100, 0]], [["p/a", 100, 1]], [["nope", 0, 0]], [["nope", 0, 1]], [["p/a", 0, 4], ["nope", 0, 1]],
                    [["p/e", 0, 0]], [["p/e", 0, 1]], [["p/a", 0]], [["p/a", 0, 1, 2]], [["p/a"]], [[]], ["p/a"], ["abc"], [5], [None], [["p/a", "0", 1]], [["p/a", 0, "1"]],
                    [["p/a", 0.0, 1]], [["p/a", 0, 1.0]], [["p/a", True, 1]], [["p/a", 0, True]], [["p/a", None, 1]], [["p/a", 0, None]], [["p/a", 0, -1]], [[5, 0, 1]],
                    [[None, 0, 1]], [["", 0, 1]], [["p", 0, 1]], [["p/a", 0, 1]] * 1000, [["p/a", 10**30, 1]], [["p/a", -(10**30), 1]], [["p/a", 0, 10**30]],
                    [["p/a", 2**63, 1]], [["p/a", 0, 2**40]], {}, {"a": 1}, {"abc": 1}, "", "abc", 5, None, True, [{"name": "p/a"}]):
        if sources == [["p/a", 0, 10**30]] or sources == [["p/a", 0, 2**40]]:  # the original takes the memory for it
            yield alone(f"gather {sources}", gather(sources).data, (400, 416))
            continue
        yield gather(sources)
        if isinstance(sources, list):
            yield from (defrag(sources, "target=t/x"), load("t/x"), defrag(sources, "algorithm=sha256&namespace=packs&levels=1"), defrag(sources, "algorithm=blake3&namespace=packs&levels=1"))
    for body in (b"", b"[", b"[]]", b"nonsense", b"[[\"p/a\", 0, 1],]", b"\xff\xfe", b"[[\"p/a\", 0x0, 1]]", b"[[\"p/a\", 00, 1]]", b" \n[\t[\"p/a\" , 0,1 ] ]\r\n", b"[['p/a',0,1]]",
                 b"[[\"p/a\", -0, 1]]", b"[[\"p/a\", 1e0, 1]]", b"[[\"p\\/a\", 0, 1]]", b"[[\"p/a\", 0, 1]]garbage", b"[" * 50, b"[[\"p/a\", +1, 1]]"):
        yield from (gather(body), defrag(body, "target=t/y"))
    yield from (load("t/x"), listing("packs"), COMPARE)
    for query in ("", "target=", "algorithm=", "levels=1", "namespace=packs", "target=t/a", "target=t/a&algorithm=nonsense", "target=p/a", "algorithm=sha256",
                  "algorithm=sha256&levels=1", "algorithm=sha256&levels=2&namespace=packs", "algorithm=sha256&levels=0&namespace=packs/", "algorithm=sha256&levels=-1&namespace=packs",
                  "algorithm=sha256&levels=12", "algorithm=sha256&levels=13", "algorithm=sha256&levels=1000", "algorithm=sha256&levels=", "algorithm=nonsense",
                  "algorithm=shake_128", "algorithm=sha256&namespace=a/b/c&levels=1", "algorithm=md5", "algorithm=SHA256", "algorithm=blake3", "target=t/a&levels=5&namespace=zz"):
        yield defrag([["p/b", 0, 3], ["p/b", 0, 3]], query, unread="target=t" not in query and "target=p" not in query and "algorithm=" not in query + " " or query == "algorithm=")
    yield ask("POST", "/some/name?cmd=gather", b'[["p/b",0,1]]')
    yield ask("POST", "/some/name?cmd=defrag&target=t/z", b'[["p/b",0,1]]')
    yield from (defrag([["p/b", 0, 1]], "target=p/b"), load("p/b"), defrag([["p/b", 0, 1]], "algorithm=sha256&levels=x"), load("p/b"), listing(""), listing("some"))
    yield alone("sources nested deeply", gather(b"[" * 200000).data, (400, 413))
    yield alone("a million sources", gather(b"[" + b",".join([b'["p/b",0,0]'] * 100000) + b"]").data, (200, 400, 413))
    yield load("p/b")


@stream("b22")
def old_defrag(original):
    yield CREATE
    yield from (store("packs/aa/a", TEN), store("packs/bb/b", b"abc"), store("e", b""))
    for sources in ([], [["packs/aa/a", 0, 10]], [["packs/aa/a", 2, 3], ["packs/bb/b", 0, 3], ["packs/aa/a", 2, 3]], [["packs/aa/a", -3, 2]], [["packs/aa/a", 0, 11]],
                    [["nope", 0, 1]], [["packs/aa/a", 0, -1]], [["packs/aa/a", 0]], [5]):
        yield defrag(sources, "algorithm=sha256&namespace=packs&levels=1")
        yield from (defrag(sources, "target=t/x"), load("t/x"))
    yield from (defrag(b"nonsense", "target=x"), defrag([], "", unread=True), listing("packs"))


@stream("b25")
def refused_with_a_body(original):
    """What is refused before its body was read must not leave the body in the stream."""
    yield CREATE
    yield store("keep", TEN)
    for body in (EVIL, b"x" * 70000, b"\r\n" * 10, EVIL * 3000):
        refused = [ask("POST", "/a/x", body, accept=None, unread=True), ask("POST", "/a/x", body, accept="*/*", unread=True),
                   ask("POST", "/a/x", body, accept=rawhttp.ACCEPT + ", */*", unread=True), ask("POST", "/a/x", body, accept=rawhttp.ACCEPT.upper(), unread=True),
                   ask("PUT", "/a/x", body, unread=True), ask("PATCH", "/a/x", body, unread=True), ask("OPTIONS", "/", body, unread=True), ask("post", "/a/x", body, unread=True),
                   ask("NONSENSE", "/a/x", body, unread=True), ask("POST", "/", body, unread=True), ask("POST", "/?cmd=move&current=a", body, unread=True),
                   ask("POST", "/?cmd=defrag", body, unread=True), ask("POST", "/?cmd=hash", body, unread=True), ask("GET", "/keep", body, unread=True),
                   ask("GET", "/missing", body, unread=True), ask("HEAD", "/keep", body, unread=True), ask("DELETE", "/missing", body, unread=True),
                   ask("POST", "/?cmd=create", body, unread=True), ask("POST", "/?cmd=quota", body, unread=True), ask("POST", "/keep?cmd=mkdir", body, unread=True)]
        for step in refused if body == EVIL else refused[:1]:
            # A HEAD or GET with a body is none that clients send: to answer it is as good as to refuse it.
            yield Step(**{**step.__dict__, "name": step.name[:60]})
            yield load("keep")
    yield from (ask("GET", "/keep", accept=None), ask("GET", "/keep", accept=""), ask("HEAD", "/keep", accept="text/html"), ask("GET", "/keep", accept=f" {rawhttp.ACCEPT}"),
                ask("DELETE", "/keep", accept=None), ask("POST", "/?cmd=create", accept=None), load("keep"))
    yield from (ask("POST", "/a/big", EVIL * 3000, headers=[("X-Content-hash-sha256", "0" * 64)]), store("a/" + "X" * 5, EVIL * 3000), store("a..b", EVIL), load("keep"))
    yield ask("POST", "/a/expected", b"expected", headers=[("Expect", "100-continue")])
    yield load("a/expected")


@stream("b25")
def framing(original):
    """Requests of which nobody can say where they end, or that are no requests: only ours is asked."""
    yield CREATE
    yield store("keep", TEN)
    accept = f"Accept: {rawhttp.ACCEPT}\r\n".encode()
    post = b"POST /a/x HTTP/1.1\r\n" + accept
    chunks = b"5\r\nhello\r\n0\r\n\r\n"
    for name, lines in {"chunked": b"Transfer-Encoding: chunked\r\n", "Chunked": b"transfer-encoding: Chunked\r\n", "identity": b"Transfer-Encoding: identity\r\n",
                        "chunked and a length": b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n", "gzip, chunked": b"Transfer-Encoding: gzip, chunked\r\n",
                        "chunked twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "xchunked": b"Transfer-Encoding: xchunked\r\n"}.items():
        yield alone(f"transfer encoding: {name}", post + lines + b"\r\n" + chunks, (400, 411, 501), ends=True)
        yield load("keep")
    for length in (b"-1", b"+5", b"5x", b"0x5", b"", b"5, 5", b"5,6", b"5 5", b"5_0", b"\xb2", b"99999999999999999999999", b"18446744073709551615", b"1e3", b"5.0", b"-0"):
        yield alone(f"length {length!r}", post + b"Content-Length: " + length + b"\r\n\r\nhello", (400, 413), ends=True)
    yield alone("two lengths", post + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", (400,), ends=True)
    yield alone("two lengths in other cases", post + b"Content-Length: 5\r\ncontent-length: 0\r\n\r\nhello", (400,), ends=True)
    yield alone("a blank before the colon", post + b"Content-Length : 5\r\n\r\nhello", (400,), ends=True)
    yield alone("a folded header", post + b"X-A: b\r\n c\r\nContent-Length: 0\r\n\r\n", (400,), ends=True)
    yield alone("a folded length", post + b"Content-Length:\r\n 5\r\n\r\nhello", (400,), ends=True)
    yield alone("a line without a colon", post + b"nonsense\r\nContent-Length: 0\r\n\r\n", (400,), ends=True)
    yield alone("a header without a name", post + b": x\r\nContent-Length: 0\r\n\r\n", (400,), ends=True)
    yield alone("a NUL in a header", post + b"X-A: a\0b\r\nContent-Length: 0\r\n\r\n", (400,), ends=True)
    yield alone("a carriage return in a header", post + b"X-A: a\rContent-Length: 5\r\n\r\nhello", (400, 411), ends=True)
    for name, line in {"two words": b"GET /keep", "no version": b"GET /keep HTTP", "HTTP/2": b"GET /keep HTTP/2.0", "HTTP/1.1.1": b"GET /keep HTTP/1.1.1", "four words": b"GET /keep x HTTP/1.1",
                       "lower http": b"GET /keep http/1.1", "a preface": b"PRI * HTTP/2.0", "binary": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "one word": b"nonsense", 
                       "no target": b"GET  HTTP/1.1", "a tab": b"GET\t/keep\tHTTP/1.1", "msgpack": b"\x84\xa1i\x01\xa1m\xa9negotiate"}.items():
        yield alone(f"request line: {name}", line + b"\r\n" + accept + b"\r\n", (400, 505, None), ends=True)
    yield alone("request line: a NUL", b"GET /ke\0ep HTTP/1.1\r\n" + accept + b"\r\n", (400,), ends=None)
    yield alone("request line: a star", b"OPTIONS * HTTP/1.1\r\n" + accept + b"\r\n", (400, 405, 501))
    yield alone("a long request line", b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n" + accept + b"\r\n", (400, 414, 431), ends=True)
    yield alone("a long header", post + b"X-A: " + b"x" * 70000 + b"\r\nContent-Length: 0\r\n\r\n", (400, 431), ends=True)
    yield alone("many headers", post + b"".join(b"X-%d: x\r\n" % n for n in range(5000)) + b"Content-Length: 0\r\n\r\n", (400, 431), ends=True)
    yield alone("an endless header block", post + b"X-A: b\r\n" * 200000, (400, 431), ends=True)
    yield load("keep")
    hash = f"X-Content-hash-sha256: {digest(b'hello')}\r\n".encode()
    for name, head in {"with its hash": hash, "without": b""}.items():
        for sent in (b"", b"h", b"hell"):
            yield cut(f"upload cut after {len(sent)} of 5 bytes, {name}", post + head + b"Content-Length: 5\r\n\r\n" + sent)
    yield cut("a large upload cut", post + b"Content-Length: 3000000\r\n\r\n" + b"x" * 2000000)
    yield cut("an overwriting upload cut", b"POST /keep HTTP/1.1\r\n" + accept + b"Content-Length: 20\r\n\r\n" + TEN)
    yield cut("a gather cut", b"POST /?cmd=defrag&target=keep HTTP/1.1\r\n" + accept + b'Content-Length: 40\r\n\r\n[["keep",0,1]]')
    yield from (load("keep"), info("a/x"), info("a"))


@stream("b25", "b22")
def heads_cut(original):
    """An end inside of a request's head is an end like any other."""
    yield CREATE
    yield store("keep", TEN)
    for head in (b"", b"G", b"GET /keep HTTP/1.1", b"GET /keep HTTP/1.1\r\n", b"GET /keep HTTP/1.1\r\nAccept: x\r", b"DELETE /keep HTTP/1.1\r\nAccept: " + rawhttp.ACCEPT.encode() + b"\r\n"):
        yield cut(f"end after {head!r}", head)
    yield load("keep")


@stream("b25", "b22", "0.7.0")
def destruction(original):
    def made(*steps):
        return [CREATE, *steps, COMPARE, DESTROY, listing(""), disk(lambda base: shutil.rmtree(base, ignore_errors=True), "remove what is left")]

    yield DESTROY
    yield from made()
    for name in IMMUTABLE:
        yield from made(store(name, b"x"), store("packs/aa/x", TEN), mkdir("anything/else"))
    yield from made(mkdir("packs/00"), mkdir("archives"), mkdir("config"))
    yield from made(mkdir("other"))
    yield from made(store("file", b"precious"))
    yield from made(store("config/manifest", b"x"))
    yield from made(store("documents/config", b"x"), store("packs/aa/x", b"x"))
    yield from made(store("config", b"a file, as in Borg 1"))
    yield from made(store("packs/aa/bb", b"x"))


def borg_repository(original):
    """What a mode finds: a small repository in the original's format, its objects named by their content."""
    name = lambda body: digest(body, original.hash)
    config = {"config/config": b"[repository]\nversion = 5\n", "config/defaults": b"D" * 49} if original.hash == "blake3" else {
        "config/readme": b"This is a Borg Backup repository.\n", "config/version": b"4", "config/id": b"0" * 64, "config/manifest": b"M" * 370}
    objects = dict(config)
    for number in range(3):
        body = b"pack %d" % number * 50
        objects[f"packs/{name(body)[:2]}/{name(body)}"] = body
    for space in ("index", "keys", "locks"):
        body = space.encode() * 30
        objects[f"{space}/{name(body)}"] = body
    objects[f"archives/{name(b'first')}"] = objects[f"archives/{name(b'second')}"] = b""
    objects["cache/checked-packs"] = b"checked"
    return objects


def modal(original, mode):
    """Every operation in every namespace under a mode."""
    objects = borg_repository(original)
    yield CREATE
    for path, body in objects.items():
        yield store(path, body)
    yield mkdir("empty")
    yield store("other/thing", b"x")
    yield restart("--permissions", mode)
    name = lambda body: digest(body, original.hash)
    yield from (CREATE, DESTROY, listing(""), info(""), QUOTA)
    for path, body in objects.items():
        space = path.split("/")[0]
        yield from (info(path), load(path), load(path, "bytes=1-3"), hashing(path), listing(space), info(space), info(f"{space}/{name(b'missing')}"), load(f"{space}/{name(b'missing')}"),
                    hashing(f"{space}/{name(b'missing')}"), delete(f"{space}/{name(b'missing')}"))
        if not original.old:
            yield from (gather([[path, 0, 1 if body else 0]]), gather([[path, 0, 0], ["config/" + name(b"missing"), 0, 1]]))
        yield from (store(path, body), load(path))
        changed = body + b"!"
        if not is_named_by_content(path):
            yield from (store(path, changed if space != "archives" else b""), load(path))
        else:
            yield store(path, changed)  # whose name is wrong now
    for space in NAMESPACES:
        body = b"new in " + space.encode()
        new = {"packs": f"packs/{name(body)[:2]}/{name(body)}", "config": "config/space-reserve.7", "cache": f"cache/referenced-by-archive.{name(body)}"}.get(space, f"{space}/{name(body)}")
        yield from (store(new, b"" if space == "archives" else body), info(new), store(f"{space}/other", b"x"), info(f"{space}/other"), delete(new), info(new))
        yield from (mkdir(space), mkdir("packs/ab" if space == "packs" else f"{space}/directory"), rmdir("packs/ab" if space == "packs" else f"{space}/directory"))
        yield defrag([[path, 0, 1] for path in objects if path.startswith("packs")], f"algorithm={original.hash}&namespace={space}&levels={int(space == 'packs')}")
        yield defrag([], f"target={space}/{name(b'')}")
    first, second = (path for path in objects if path.startswith("archives"))
    yield from (move(first, f"{first}.del"), info(first), move(f"{first}.del", first), move(first, second), move("config/config", "config/gone"), move("config/version", "cache/version"),
                delete(second), info(second))
    for path in objects:
        yield from (delete(path), info(path))
    yield from (store("other/new", b"x"), load("other/thing"), delete("other/thing"), mkdir("other/directory"), rmdir("empty"), store("stray", b"x"), listing("other"), listing(""))
    yield from (store("a/B", b"x"), load("a..b"), store("packs/aa/wrong-hash", b"x", hash="0" * 64))


for mode in MODES[1:]:
    def played(original, mode=mode):
        return modal(original, mode)

    played.__name__ = f"mode_{mode}"
    stream("b25", "b22")(played)


# --- random streams ---------------------------------------------------------------------------------------------------

POOL = ["a/x", "a/y", "a/z.del", "a", "b/00/01", "b/00/02", "b/00", "b", "c", "c/below", "config/readme", "config/id", "packs/ab/cd", "packs/ab", "dot/.hidden", "odd/a:b;c*[d]!~,@", "n" * 91,
        "missing/at/all"]
BAD = ["A", "a..b", "../a", "a/./b", "a//b", "x.tmp", "a/x.hid", "x.tmp/y", "a%20b", "\x7f"]
BODIES = [b"", b"x", TEN, bytes(range(256)), b"\r\n\r\n", EVIL, b"L" * 100000]
FLAT = ["a/x", "a/y", "a/z.del", "b/00/01", "b/00/02", "config/id", "packs/ab/cd"]  # where no directory can be a file's place
RANGES = ["0-3", "2-", "-4", "5-100", "10-12", "100-", "5-4", "5-3", "5-2", "-100", "-0", "0-1,3-4", "x", "0-"]


def random_step(rng, original, pipelined):
    """Pipelined nothing is asked to which ours deliberately answers otherwise: no look at the trees is possible there."""
    pool = FLAT if pipelined else POOL
    name = rng.choice(pool if pipelined or rng.random() < 0.95 else BAD)
    other, body = rng.choice(pool), rng.choice(BODIES)
    range = rng.choice(RANGES[:2] + RANGES[3:7] if pipelined else RANGES)
    least = int(original.old)  # of which nothing is wanted is looked up by the old one
    sources = [[rng.choice(pool), rng.choice([0, 0, 1, 5, *([] if pipelined else [-1])]), rng.choice([least, 1, 3, 10])] for _ in "123"[:rng.randrange(4)]]
    choices = [
        (20, lambda: store(name, body)), (3, lambda: store(name, body, hash=None)), (2, lambda: store(name, body, hash="0" * 64)),
        (12, lambda: load(name)), (8, lambda: load(name, f"bytes={range}")), (8, lambda: info(name)), (8, lambda: listing(rng.choice(["a", "b", "b/00", "config", "missing"]) if pipelined else name)),
        (4, lambda: listing("")), (8, lambda: delete(name)), (8, lambda: move(name, other)), (4, lambda: hashing(name)), (1, lambda: mkdir("m/deep")),
        (1, lambda: QUOTA), (1, lambda: CREATE), (1, lambda: ask("GET", f"/{name}", accept=None)), (2, lambda: ask("GET", "//")),
        (4, lambda: defrag(sources, f"target={quote(other, safe='')}")), (3, lambda: defrag(sources, "algorithm=sha256&namespace=packs&levels=1")), (1, lambda: defrag(b"[nonsense", "target=q")),
    ]
    if not pipelined:
        choices += [(4, lambda: mkdir(name)), (4, lambda: rmdir(name)), (2, lambda: DESTROY), (2, lambda: CREATE), (1, lambda: restart()), (1, lambda: ask("PUT", f"/{name}", body or b"x", unread=True))]
    if not original.old:
        choices += [(6, lambda: gather(sources)), (3, lambda: hashing(name, "blake3")), (2, lambda: defrag(sources, "algorithm=blake3&namespace=packs&levels=1"))]
    weights, makers = zip(*choices)
    return rng.choices(makers, weights)[0]()


def random_stream(rng, original, count=70):
    yield CREATE
    for _ in range(count):
        yield random_step(rng, original, False)


def random_mode_stream(rng, original, mode, count=70):
    """As a client of that version could ask, and as it could not, under a mode."""
    objects = borg_repository(original)
    yield CREATE
    for path, body in objects.items():
        yield store(path, body)
    yield restart("--permissions", mode)
    name = lambda body: digest(body, original.hash)
    for _ in range(count):
        path, body = rng.choice(list(objects)), rng.choice([b"fresh %d" % rng.randrange(5), b"again"])
        space = path.split("/")[0]
        fresh = {"packs": f"packs/{name(body)[:2]}/{name(body)}", "config": "config/manifest", "cache": "cache/chunkindex-invalid"}.get(space, f"{space}/{name(body)}")
        target = rng.choice([path, fresh])
        content = b"" if target.startswith("archives") else objects[path] if target == path else body
        yield rng.choice([
            lambda: store(target, content), lambda: store(target, content), lambda: store(f"{space}/stray", body), lambda: load(target), lambda: load(target, "bytes=0-1"),
            lambda: info(target), lambda: listing(space), lambda: delete(target), lambda: move(target, f"{target}.del" if space == "archives" else fresh), lambda: hashing(target),
            lambda: mkdir(rng.choice([space, "packs/ab"])), lambda: rmdir(rng.choice([space, "packs/ab"])), lambda: defrag([[target, 0, 1]], f"algorithm={original.hash}&namespace={space}&levels=1"),
            lambda: gather([[target, 0, 1]]) if not original.old else QUOTA, lambda: CREATE, lambda: DESTROY, lambda: listing("")])()


# --- launches ---------------------------------------------------------------------------------------------------------

# What ours deliberately does otherwise: (why, the original's exit code, ours and its two answers).
HELP = ("help is not printed into the protocol", 0, (2, []))
STANDS = ("a backend in the forced command stands, whatever the client asks for", None, (0, [(200, b"r/x"), (403, b"")]))
ABSOLUTE = ("a file: URL is held against the restrictions as a FILE: path is", 83, (0, [(200, b"r/x"), (200, b"")]))
FOREIGN = ("what is neither granted nor a repository is no store", 0, (0, [(410, b""), (410, b"")]))


def launches(options, report, place, is_original):
    """How the process starts and ends for command lines and forced commands: its exit code, and what it answers to two requests."""
    for version in ("2.0.0b25", "2.0.0b22"):
        base = place.directory(f"launches-{version}")
        folders = ("", "r/x", "base", "home/h", "elsewhere")
        for name in (*folders, "bas"):
            (base / name / "config").mkdir(parents=True)
            (base / name / "config/readme").write_bytes(b"a repository")
            (base / name / "here").write_bytes(name.encode())
        (base / "plain").mkdir()
        (base / "plain/here").write_bytes(b"no repository")
        (base / "link").symlink_to(base / "r")
        r, x, plain = base / "r", base / "r/x", base / "plain"
        table = []

        def row(line, *, difference=None, **environment):
            table.append((line, environment, difference))

        for line in ("--rest", "--rest --backend", f"--rest --backend FILE:{x}", "--rest --backend FILE:r/x", "--rest --backend FILE:", "--rest --backend FILE:~/h", f"--rest --backend file://{x}",
                     f"--rest --backend {x}", "--rest --backend nonsense:x", f"--rest --backend FILE:{base}/link/x", f"--rest --backend FILE:{x}/../x/", f"--rest --backend FILE:{x} --restrict-to-path {r}",
                     f"--rest --backend FILE:{x} --restrict-to-path {base}/link", f"--rest --backend FILE:{base}/link/x --restrict-to-path {r}", f"--rest --backend FILE:{base}/base --restrict-to-path {base}/bas",
                     f"--rest --backend FILE:{x} --restrict-to-repository {r}", f"--rest --backend FILE:{x} --restrict-to-repository {x}",
                     f"--rest --backend FILE:{x} --restrict-to-repository {x} --restrict-to-path {base}/elsewhere", f"--rest --backend FILE:{x} --restrict-to-path {base}/elsewhere --restrict-to-path {r}",
                     f"--rest --backend FILE:{x}/../../elsewhere --restrict-to-path {r}", "--rest --backend FILE:~/h --restrict-to-path ~/h", "--rest --backend FILE:r/x --restrict-to-path r",
                     f"--rest --backend FILE:{x} --permissions nonsense", f"--rest --backend FILE:{x} --permissions read-only", f"--rest --backend FILE:{x} --nonsense", f"--umask 022 --rest --backend FILE:{x}",
                     f"--rest --backend FILE:{x} --lock-wait 5 --debug", f"--rest --backend FILE:{base}/missing", f"--rest --backend FILE:{plain} --restrict-to-path {plain}"):
            row(line)
        row(f"--rest --backend file://{x} --restrict-to-path {r}", difference=ABSOLUTE)
        row(f"--rest --backend FILE:{plain}", difference=FOREIGN)
        row(f"--rest --backend FILE:{x}", BORG_REPO_PERMISSIONS="read-only")
        row(f"--rest --backend FILE:{x}", BORG_REPO_PERMISSIONS="nonsense")
        row(f"--rest --backend FILE:{x} --permissions all", BORG_REPO_PERMISSIONS="nonsense")
        forced = f"--rest --restrict-to-path {r} --permissions read-only"
        for asked, first, second in (
                (f"borg serve --rest --backend FILE:{x}", None, None), (f"BORG_X=1 /opt/other serve --rest --backend FILE:{x} --permissions all --restrict-to-path /", None, None),
                (f"borg serve --backend FILE:{x}", None, None), (f"borg serve --rest --backend FILE:{base}/elsewhere", None, STANDS), ("scp -t x", None, None), ("borg list x", None, None),
                (f"borg serve --rest --backend FILE:{x} --umask 000", None, None), ("borg serve --rest", None, STANDS), ("", HELP, HELP), ("borg", HELP, HELP), (f"borg serve --rest --backend 'FILE:{x}'", None, None),
                (f"borg serve --rest --backend FILE:{x} extra", None, None), (f"borg serve --rest --backend FILE:{base}/a b", None, None)):
            row(forced, difference=first, SSH_ORIGINAL_COMMAND=asked)
            row(f"{forced} --backend FILE:{x}", difference=second, SSH_ORIGINAL_COMMAND=asked)
        wrong = []
        for line, environment, difference in table:
            theirs, ours = (launched(command, line, base, environment, wrong if command == options.server and not is_original else [], [base / name for name in (*folders, "missing", "plain")])
                            for command in (str(bed.client_path(version)), options.server))
            if difference and not is_original:
                why, code, expected = difference
                if code is not None and theirs[0] != code:
                    wrong.append(f"{line} {environment}: the original {theirs} does not do what we do otherwise ({why})")
                if ours != expected:
                    wrong.append(f"{line} {environment}: ours {ours}, expected {expected}: {why}")
            elif theirs != ours:
                wrong.append(f"{line} {environment}:\n      ours {ours}\n      original {theirs}")
        report.check(f"{version}: {len(table)} command lines and forced commands", not wrong, "\n".join(wrong[:12]))


def launched(command, line, base, environment, wrong, folders):
    """The exit code and the answers of one start."""
    process = rawhttp.Stdio([command, "serve", *line.split()], cwd=base, environment={"PATH": os.environ.get("PATH", ""), "HOME": str(base / "home"), "LANG": "C.UTF-8", **environment})
    answers = []
    for step in (load("here"), store("written/new", b"x")):
        try:
            process.send(step.data)
            answer = process.response(timeout=20)
            answers.append((answer.status, answer.body if answer.status == 200 else b""))
        except rawhttp.Hangup:
            break
    code, _ = process.end()
    if code not in (0, "timeout") and not process.errors().strip():
        wrong.append(f"{line} {environment}: ended with {code} and without a reason")
    for folder in folders:
        shutil.rmtree(folder / "written", ignore_errors=True)
    return code, answers


# --- the program ------------------------------------------------------------------------------------------------------


def main():
    made = bed.parser(__doc__, 400)
    made.add_argument("--rounds", type=int, default=3, help="random streams to each original and mode (%(default)s)")
    made.add_argument("--originals", default="b25,b22,0.7.0", help="of b25,b22,0.7.0 (default: all)")
    made.add_argument("--differences", action="store_true", help="print the deliberate differences and end")
    made.add_argument("streams", nargs="*", help=f"of launches random {' '.join(STREAMS)} (default: all)")
    if "--differences" in sys.argv:
        for name, (whose, why, _, _) in DIFFERENCES.items():
            print(f"| {name} | {'of ours' if whose == 'ours' else 'of borgstore 0.5'} | {why} |")
        return 0
    options = bed.parse(made)
    for name in options.streams:
        if name not in ("launches", "random", *STREAMS):
            bed.die(f"no such stream: {name}")
    load_blake3()
    report, place = bed.Report(), bed.Place("differential-rest", options.keep)
    said = subprocess.run([options.server, "--version"], capture_output=True, text=True).stdout
    # An original is run by the python beside it.
    is_original = said.strip() if said.startswith("borg 2.0.0b") and os.path.exists(os.path.join(os.path.dirname(options.server), "python")) else ""
    if is_original:
        print(f"the server is an original ({is_original}): the harness is what is tested")
    wanted = lambda name: not options.streams or name in options.streams
    sides = {name: side for name, side in originals().items() if name in options.originals.split(",") and (is_original != OLD or side.old)}
    number = 0

    def run(name, original, play):
        nonlocal number
        number += 1
        began, stream = time.monotonic(), Stream(original, options, place, number, is_original)
        complaints = play(stream)
        report.check(f"{name} [{original.name}]", not complaints, "\n".join(complaints), note=f"{stream.count} steps in {time.monotonic() - began:.1f} s")

    for name, (function, which) in STREAMS.items():
        for key, original in sides.items():
            if wanted(name) and key in which:
                run(name, original, lambda stream: stream.play(function(original)))
    if wanted("launches"):
        launches(options, report, place, is_original)
    if wanted("random"):
        for round in range(options.rounds):
            for original in sides.values():
                rng = random.Random(f"{options.seed} {round} {original.name}")
                run(f"random {round}", original, lambda stream: stream.play(random_stream(rng, original)))
                pipelined = [CREATE, *map(mkdir, ("a", "b/00", "config", "packs/ab")), *(random_step(rng, original, True) for _ in range(60))]
                if round % 2 == 0:
                    run(f"pipelined {round}", original, lambda stream: stream.play_pipelined(pipelined))
                if original.modes:
                    mode = MODES[1:][round % 3]
                    run(f"random {mode} {round}", original, lambda stream: stream.play(random_mode_stream(rng, original, mode)))
    if not options.streams and not is_original and {"b25", "b22"} <= set(sides):
        unused = [name for name in DIFFERENCES if name not in DIFFERENCES.used]
        report.check("every deliberate difference was met", not unused, f"never met: {unused}")
    place.close()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
