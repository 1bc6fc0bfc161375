#!/usr/bin/env python3
"""Plays the same requests to a Borg 1.x server and to ours, and compares whatever can be seen: differential.py for 1.x.

Each stream of requests starts both servers on pipes, each with an empty directory of its own as working directory.
Compared are: every answer, its bytes' form included (raw strings only, order of keys), but for texts that say where and
why something broke; the log records on standard error with their form; what is on disk afterwards: segment files, README,
nonce and config byte for byte, hints by what they say, indexes by what the original's own loader reads from them, locks;
and how the process ends. Streams are named by what they are about (`--only check_`), and random ones follow
(`--rounds`, `--seed`), of which every second is played pipelined: all requests of a transaction first, then all answers.

Masked: the repository's random id, process ids, names of temporary files, the time of day, free space. Not compared: the
order of `list` (that its pages add up is), and which Python exception the original stumbled over (any error will do).

Intended differences stand in the streams, as `differs(step, "W8", test)`: there the original's answer is not compared and
ours must pass the test. Those that show in much of what follows are patches of the original instead, in improved1.py: it
then does what we promise, and is compared as strictly. DIFFERENCES says what we want, `--differences` prints it. With
`--same` the original is as it is and all steps are ordinary: so it is compared with itself, which shows that the streams
are sound; mutants1.py shows that they find faults. Versions before 1.4 have no patches: they show what is left.
"""

import collections
import concurrent.futures
import itertools
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import dataclass, replace

sys.dont_write_bytecode = True
import bed
import improved1

msgpack = bed.load_msgpack()
VERSIONS = ["1.1.18", "1.2.9", "1.4.5"]
VERSION = VERSIONS[-1]
HOST_ID = "bed@1"
MAX_DATA_SIZE = 20971479

DIFFERENCES = {
    "W1": "without a repository, the end of input is explained on standard error (after a 1.x client has said something); standard output stays the protocol's",
    "W3": "an error whose arguments cannot be packed is answered, not died of",
    "W4": "a damaged integrity file is recovered from like a damaged index",
    "W5": "check without repair answers false when commits or all segments are lost, and names the objects",
    "W6": "check with repair names the objects that were lost",
    "W7": "check with repair answers when there is no data directory left",
    "W8": "after an aborted first transaction the next one works, and nothing of the aborted one comes back",
    "W9": "an overwrite that fails leaves the object as it was, in the log as in the index",
    "W10": "a signal ends the server also while it works for a request, and gives back the locks",
    "W12": "what exceeds the quota is not written",
    "W13": "the server's --append-only binds the connection that creates, too, and refuses by PermissionDenied",
    "W14": "a check leaves the config file alone unless it has something to note or to forget",
    "W15": "a compaction that has nothing to compact writes no COMMIT and says nothing",
    "W16": "scan sees what was written in its transaction, whether it is on the disk already or not",
    "W17": "an index is recovered without a COMMIT and without keeping the exclusive lock, in one go and with one warning",
    "W21": "a message that cannot be executed is answered with an error when its id is known; else the server ends with 2",
    "W22": "an empty or one-word SSH_ORIGINAL_COMMAND never prints help on standard output",
    "W23": "errors name paths as the client spelt them (AlreadyExists no parent), and hold no traceback, no command line and no kernel; in tuple form their text is the message, as there is no traceback to refer to",
    "W24": "commit without a transaction answers nil or one clear error, and an open that fails leaves no lock",
    "X1": "a wait for a lock says of the same file once that it is malformed or stale",
    "X2": "the COMMIT that a repair adds is in the hints as every other, so that compaction finds it",
}
# W2, an unknown marker of `list` that kills 1.1 and 1.2, is answered as by 1.4.

# Exceptions by which the original stumbled rather than answered: any error will do.
STUMBLED = {"TypeError", "AttributeError", "UnicodeDecodeError", "UnicodeEncodeError", "FileNotFoundError", "FileExistsError",
            "NotADirectoryError", "IsADirectoryError", "PermissionError", "OSError", "OverflowError", "error", "IndexError",
            "UnboundLocalError", "NoSectionError", "NoOptionError", "ParsingError", "DuplicateOptionError", "DuplicateSectionError",
            "MissingSectionHeaderError", "PackException", "RecursionError", "ExtraData", "UnpackException"}
# These are answers, too, when they say one of the fixed texts; else the original stumbled.
OFTEN_STUMBLED = {"AssertionError", "ValueError", "KeyError", "Exception"}
FIXED_TEXT = re.compile(r"append-only mode|bug in code, exclusive|nonce space|please use limit|marker not found")


# --- steps ------------------------------------------------------------------------------------------------------------


class At(str):
    """A path below the server's own directory."""


@dataclass(frozen=True)
class Step:
    kind: str  # call, message, pages, together, raw, signal, disk, look, restart
    name: str = ""
    content: object = None
    why: str = ""  # the number of an intended difference
    test: object = None  # of our answer, in place of the comparison
    more: object = None

    def __str__(self):
        if self.kind == "call":
            return f"{self.name}({', '.join(f'{k}={brief(v)}' for k, v in self.content.items())})"
        return f"{self.kind} {self.name}".strip()


def call(method, **arguments):
    return Step("call", method, arguments)


def called(method, *arguments):
    """A request in tuple form."""
    return Step("message", repr((method, *arguments))[:70], lambda number: [1, number, method, list(arguments)])


def message(name, make):
    """A request of any form: `make(number)` is what is sent; an answer is expected."""
    return Step("message", name, make)


def raw(data, name):
    """Bytes upon which the process has to end; its exit code is compared."""
    return Step("raw", name, data)


def disk(change, name=""):
    """A change made behind the servers' backs: `change(directory)`."""
    return Step("disk", name or change.__name__, change)


def differs(step, why, test):
    assert why in DIFFERENCES
    return replace(step, why=why, test=test)


def restart(*arguments, **environment):
    """Close the input, compare exit code and disk, start again with these options and this environment."""
    return Step("restart", " ".join(arguments), list(arguments), more=environment)


def pages(limit):
    """`list` page by page, each server with markers of its own; compared are the set and that the pages add up."""
    return Step("pages", str(limit), limit)


def together(*steps):
    """Sends all requests before the first answer is read."""
    return Step("together", f"{len(steps)} requests", steps)


RESTART = restart()
LOOK = Step("look")


def fails(*classes):
    return lambda answer: answer.failed and (not classes or answer.error in classes)


def succeeds(answer):
    return not answer.failed


def returns(value):
    return lambda answer: not answer.failed and answer.value == value


def stumbled(answer):
    return answer.failed and (answer.error in STUMBLED or answer.form == "dict" and answer.error in OFTEN_STUMBLED and not FIXED_TEXT.search(str(answer.short)))


def clear_or_nil(answer):
    return not stumbled(answer) if answer.failed else answer.value is None


def no_lock(side):
    return not list((side.directory / "repo").glob("lock*"))


def brief(value):
    text = repr(value)
    return text if len(text) < 100 else f"{text[:70]}… ({len(value) if hasattr(value, '__len__') else ''})"


def hello(version=(1, 4, 5, -1)):
    return called("negotiate", {"client_version": list(version)})


def opening(path=At("repo"), create=False, **more):
    return call("open", **{"path": path, "create": create, "lock_wait": 1, "lock": True, "exclusive": True,
                           "append_only": False, "make_parent_dirs": False, **more})


def key(number):
    """The all-zero id of the manifest for 0."""
    return bytes([number]) * 32


def put(number, data=None):
    return call("put", id=key(number), data=b"object %d" % number if data is None else data)


def get(number):
    return call("get", id=key(number))


def delete(number):
    return call("delete", id=key(number))


def commit(**more):
    return call("commit", **{"save_space": False, "compact": False, "threshold": 0.1, "cleanup_commits": False, **more})


def check(**more):
    return call("check", **{"repair": False, "save_space": False, "max_duration": 0, **more})


CLIENT_ENDS = call("rollback")


def compacting(threshold=0.1, **more):
    return commit(compact=True, threshold=threshold, **more)


def created(*steps, **more):
    """Opens a new repository and does this in it."""
    return [hello(), opening(create=True, **more), *steps]


def setting(path="repo", **values):
    """Rewrites values of the config; the next `open` reads them."""

    def change(directory):
        config = directory / path / "config"
        text = config.read_text()
        for name, value in values.items():
            text, found = re.subn(rf"(?m)^{name} = .*$", f"{name} = {value}", text)
            if not found:
                text = text.rstrip("\n") + f"\n{name} = {value}\n\n"
        config.write_text(text)

    return disk(change, f"config: {values}")


def small_segments(size=300, per_dir=1000):
    """From here on every segment takes a few objects only."""
    return [setting(max_segment_size=size, segments_per_dir=per_dir), opening()]


def edit(pattern, change, *, last=True):
    """Changes the bytes of the last (or first) file that matches, by its number."""

    def apply(directory):
        files = sorted((directory / "repo").glob(pattern), key=lambda path: int(re.sub(r"\D", "", path.name) or 0))
        path = files[-1 if last else 0]
        content = change(path.read_bytes())
        if content is None:
            path.unlink()
        else:
            path.write_bytes(content)

    return disk(apply, f"damage {pattern}")


def flip(offset):
    def change(content):
        place = offset if offset >= 0 else len(content) + offset
        return content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1:]

    return change


def truncate(length):
    return lambda content: content[:length]


def lose(content):
    return None


def empty(content):
    return b""


def garbage(content):
    return b"\xc1garbage" * 20


# --- streams ----------------------------------------------------------------------------------------------------------

STREAMS = {}


def stream(*, logs=True, disk=True, arguments=(), environment={}):
    """`logs` or `disk` false: an intended difference leaves different records, or files."""

    def known(function):
        STREAMS[function.__name__] = (function, {"logs": logs, "disk": disk, "arguments": arguments, "environment": environment})
        return function

    return known


METHODS = ("check commit rollback destroy __len__ scan list get put delete save_key load_key break_lock get_free_nonce "
           "commit_nonce_reservation").split()
NEVER = "info flags flags_many close get_many preload async_response serve __init__ __class__ _resolve_path migrate_lock".split() + ["", "GET"]


@stream()
def dialect_tuple():
    yield called("negotiate", 2)
    yield called("open", At("repo"), True, 1, True, None, False)
    yield called("__len__")
    yield called("get_free_nonce")
    yield called("commit_nonce_reservation", 2**33, None)
    yield called("get_free_nonce")
    yield called("save_key", b"BORG_KEY 00\nline two\nline three\n")
    yield called("load_key")
    for number in (1, 2, 0):
        yield called("put", key(number), b"object")
    yield called("commit", False)
    yield called("get", key(1))
    yield called("get", key(9))
    yield called("list", None, None)
    yield called("list", 1, None, "surplus")
    yield called("delete", key(2))
    yield called("delete", key(2))
    yield called("rollback")
    yield called("check", False, False)
    yield RESTART
    yield called("negotiate", 2)
    yield called("open", At("repo"), False, 1, True)
    yield called("put", key(3), b"more")
    yield called("commit", True)
    yield called("break_lock")
    yield called("open", At("nowhere"), False, 1, True)
    yield RESTART
    yield called("negotiate", 2)
    yield called("open", At("repo"), False, 1, True, True, False)
    yield called("destroy")
    yield called("open", At("repo"), False, 1, True, True, False)


@stream()
def dialect_tuple_upgrades_lock():
    """Clients of 1.0 open without saying whether they will write."""
    yield from created(put(1), put(0), commit())
    yield RESTART
    yield called("negotiate", 2)
    yield called("open", At("repo"), False, 1, True, None, False)
    yield LOOK
    yield called("get", key(1))
    yield called("put", key(2), b"x")
    yield LOOK
    yield called("commit", False)
    yield RESTART
    yield hello()
    yield opening(exclusive=False)
    yield put(3)
    yield get(1)
    yield differs(commit(), "W24", clear_or_nil)


@stream()
def dialect_dict():
    yield call("negotiate", client_data={"client_version": [1, 2, 9, -1]})
    yield call("open", path=At("repo"), create=True)
    yield call("__len__")
    yield call("put", id=key(1), data=b"", wait=True)
    yield call("put", id=key(2), data=b"x" * 70000, unknown=[1, {"a": None}])
    yield call("put", id=key(0), data=b"manifest")
    yield call("commit")
    yield differs(call("commit", save_space=True), "W24", clear_or_nil)
    for number in (None, 0, -1, 2**31, 2**63, -(2**63), "one", b"\xff\x00", True, 1.5, [1, [2]]):
        yield message(f"id {number!r}", lambda _, number=number: {"i": number, "m": "__len__", "a": {}})
    yield message("surplus keys, another order", lambda n: {"a": {}, "z": 1, "m": "__len__", "i": n})
    yield call("negotiate", client_data={"client_version": [1, 1, 18, -1]})
    yield called("__len__")
    yield get(2)


@stream()
def dialect_negotiations():
    for data in (2, {"client_version": [1, 0, 8]}, {"client_version": [1, 1, 18, -1], "client_more": 1}, 3, 1, None, [], "2", [1, 4, 5, -1]):
        yield called("negotiate", data)
        yield call("negotiate", client_data=data)
    yield called("negotiate", {})
    yield call("negotiate")
    yield opening(create=True)


@stream()
def dialect_bin():
    """1.4 takes msgpack's newer strings, too; the answers keep to the old ones."""
    new = msgpack.Packer(use_bin_type=True)
    as_new = lambda method, arguments: Step("message", f"{method} with bin and str8", lambda n: new.pack({"i": n, "m": method, "a": arguments}))
    yield from created()
    yield as_new("put", {"id": key(1), "data": b"d" * 100})
    yield as_new("put", {"id": key(0), "data": b"e" * 70000})
    yield as_new("commit", {"save_space": False})
    yield as_new("get", {"id": key(1)})
    yield as_new("get", {"id": key(7)})
    yield as_new("list", {"limit": None, "marker": None})
    yield as_new("save_key", {"keydata": b"k" * 40})
    yield as_new("n" * 40, {})


@stream()
def dialect_large():
    yield from created(put(1, b"\x00" * MAX_DATA_SIZE), put(2, b"\x01" * 20), get(1), get(2), put(3, b"\x00" * (MAX_DATA_SIZE + 1)))
    yield put(0)
    yield commit()
    yield get(1)
    yield call("list")


@stream()
def errors_methods():
    yield hello()
    for method in NEVER:
        yield call(method)
    for method in METHODS:
        yield call(method)
    yield call("open")
    yield from created()[1:]
    for method in ("get", "put", "delete", "save_key", "commit_nonce_reservation", "inject_exception"):
        yield call(method)
    yield call("rollback")
    for value in (None, 5, "short", b"x" * 31, [], {}):
        yield call("get", id=value)
    yield call("save_key", keydata=5)
    yield call("inject_exception", kind=None)
    yield call("list", limit=-1)
    yield call("list", limit="x")
    yield call("scan", limit=0)
    yield call("scan", limit=-3)


@stream()
def errors_injected():
    yield hello()
    kinds = "DoesNotExist AlreadyExists CheckNeeded IntegrityError PathNotAllowed ObjectNotFound InvalidRPCMethod divide unknown".split()
    for kind in kinds:
        yield call("inject_exception", kind=kind)
    yield opening(create=True)


@stream()
def errors_open():
    yield hello()
    yield opening()
    yield opening(At("a/b/c"), create=True)
    yield opening(At("a/b/c"), create=True, make_parent_dirs=True)
    yield opening(At("a/b/c"), create=True)
    yield opening(At("a/b/c/inner"), create=True)
    yield opening(At("a/b/c/data/0"), create=True)
    yield disk(lambda d: [(d / "file").write_text("x"), (d / "empty").mkdir(), (d / "full").mkdir(), (d / "full/file").write_text("x")], "files")
    for name in ("file", "empty", "full"):
        yield opening(At(name))
        yield opening(At(name), create=True)
    yield opening(At("file/below"))
    yield opening(At("file/below"), create=True)
    yield opening(At("empty"), lock_wait=-1)
    yield opening(At("empty"), lock_wait=0)
    yield opening(At("empty"), lock_wait=None, exclusive=False)
    yield put(1)
    yield opening(At("empty"), lock=False)


@stream(disk=False)
def errors_config():
    """Each broken config is named as such, or stumbled over, and no lock stays behind."""
    good = []
    yield from created(put(1), put(0), commit())
    yield disk(lambda d: good.append((d / "repo/config").read_text()), "remember")
    for pattern, text in ((r"version = 1", "version = 2"), (r"version = 1", "version = x"), (r"version = 1\n", ""),
                          (r"\[repository\]", "[other]"), (r"max_segment_size = \d+", "max_segment_size = 5G"),
                          (r"max_segment_size = \d+", "max_segment_size = some"), (r"segments_per_dir = \d+", "segments_per_dir = x"),
                          (r"id = \w+", "id = 00ff"), (r"id = \w+", "id = " + "g" * 64), (r"id = ", "id = 00\nid = "),
                          (r"append_only = 0", "append_only = maybe"), (r"storage_quota = 0", "storage_quota = -5X"),
                          (r"(?s).*", ""), (r"^", "no section\n")):
        yield disk(lambda d, p=pattern, t=text: (d / "repo/config").write_text(re.sub(p, t, (d / "repo/config").read_text(), count=1)), f"{text[:40]!r}")
        yield opening()
        yield differs(disk(lambda d: None, "no lock is left"), "W24", no_lock)
        yield disk(lambda d: (d / "repo/config").write_text(good[("original", "ours").index(d.name)]), "restore")
        yield opening()
        yield get(1)
    yield disk(lambda d: (d / "repo/config").unlink(), "no config")
    yield opening()
    yield differs(disk(lambda d: None, "no lock is left"), "W24", no_lock)


@stream()
def open_config_forms():
    """What the original's parser takes: sizes with suffixes, other spellings, comments, continuation lines."""
    yield from created(put(1), put(0), commit())

    def rewrite(directory):
        config = directory / "repo/config"
        identity = re.search(r"id = (\w+)", config.read_text())[1]
        config.write_text(f"# a comment\n[repository]\n; another\nVERSION: 1\nsegments_per_dir=10\nmax_segment_size = 5M\n"
                          f"append_only = no\nunknown = kept\nid : {identity}\nkey = first\n\tsecond\n  third\n\n[more]\nthing = 1\n")

    yield disk(rewrite, "another spelling")
    yield opening()
    yield call("load_key")
    yield put(2)
    yield commit()
    yield call("save_key", keydata=b"  new key\nwith lines\n\nand a gap\n")
    yield call("load_key")
    yield RESTART
    yield hello()
    yield opening()
    yield call("load_key")
    yield call("save_key", keydata=b"")
    yield call("load_key")


@stream(environment={"BORG_BASE_DIR": ".", "HOME": "."})
def open_spellings():
    """Relative paths, homes and links; errors may spell the path as the client did (W23)."""
    yield hello()
    for path in ("repo", "/./repo", "repo/", "./repo", "repo/../repo", At("repo")):
        yield opening(path, create=path == "repo")
        yield opening(path, create=True)
    yield disk(lambda d: [(d / "link").symlink_to("repo"), (d / "dangling").symlink_to("target")], "links")
    yield opening("link")
    yield put(1)
    yield put(0)
    yield commit()
    yield opening("dangling")
    yield opening("dangling", create=True)
    yield opening("missing")
    yield opening("ünïcödé repo", create=True)
    yield opening(b"raw-\xff-byte", create=True)
    yield opening("a\nb", create=True)


@stream()
def open_second():
    yield hello()
    yield opening(At("a"), create=True)
    yield put(1)
    yield opening(At("b"), create=True)
    yield LOOK
    yield put(2)
    yield put(0)
    yield commit()
    yield opening(At("b"), exclusive=False)
    yield LOOK
    yield get(2)
    yield opening(At("nowhere"))
    yield opening(At("b"))


@stream()
def open_destroyed():
    yield from created(put(1), put(0), commit(), call("destroy"), opening(), opening(create=True), put(2), put(0), commit(), get(2))


@stream(arguments=["--restrict-to-path", "allowed"])
def restricted_path():
    yield hello()
    for path in ("allowed", "allowed/inner", "allowedbutnot", "other", "allowed/../other", "/"):
        yield opening(path, create=True, make_parent_dirs=True)
    yield disk(lambda d: [(d / "x").mkdir(), (d / "allowed/inner/..").exists()], "x")


@stream(arguments=["--restrict-to-repository", "one", "--restrict-to-repository", "two", "--restrict-to-path", "one"])
def restricted_repository():
    yield hello()
    for path in ("one", "one/inner", "two", "three"):
        yield opening(path, create=True)
    yield opening("one")


@stream(logs=False, disk=False)
def malformed_answered():
    """The original dies of each of these; ours answers what has an id, and serves on."""
    why = "W21"
    broken = [("unknown method", lambda n: [1, n, "nonsense", []], ("InvalidRPCMethod",)),
              ("scan in tuple form", lambda n: [1, n, "scan", [1, None]], ("InvalidRPCMethod",)),
              ("too few arguments", lambda n: [1, n, "put", [key(1)]], ()),
              ("open with three", lambda n: [1, n, "open", ["repo", False, 1]], None),  # as well understood as with four
              ("a method that is no string", lambda n: {"i": n, "m": 5, "a": {}}, ()),
              ("a method that is not UTF-8", lambda n: {"i": n, "m": b"\xff\xfe", "a": {}}, ()),
              ("arguments nil", lambda n: {"i": n, "m": "__len__", "a": None}, ()),
              ("no arguments", lambda n: {"i": n, "m": "__len__"}, ()),
              ("no method", lambda n: {"i": n, "a": {}}, ()),
              ("an argument name that is no string", lambda n: {"i": n, "m": "__len__", "a": {5: 1}}, ()),
              ("tuple with arguments nil", lambda n: [1, n, "list", None], ())]
    for name, make, classes in broken:
        yield from created()[:1] + [opening(create=name == broken[0][0])]
        yield differs(message(name, make), why, fails(*classes) if classes is not None else lambda answer: True)
        yield differs(call("__len__"), why, returns(0))
        yield RESTART


for _name, _data in {"array": msgpack.packb([1, 2, 3]), "number": b"\x05", "nil": b"\xc0", "string": b"\xa3abc", "empty_array": b"\x90",
                     "five": msgpack.packb([1, 2, 3, 4, 5]), "ext": b"\xc7\x03\x05abc", "reserved": b"\xc1", "no_id": msgpack.packb({"m": "__len__", "a": {}}),
                     "deep": b"\x91" * 2000 + b"\xc0", "huge_array": b"\xdd\xff\xff\xff\xff", "huge_map": b"\xdf\xff\xff\xff\xff",
                     "good_then_bad": msgpack.packb({"i": 77, "m": "__len__", "a": {}}) + b"\xc1"}.items():
    def _malformed(data=_data, name=_name):
        yield from created(put(1))
        yield raw(data, name)

    _malformed.__name__ = f"malformed_{_name}"
    # The original calls those that its decoder refuses a local exception.
    stream(logs=_name in ("array", "number", "nil", "string", "empty_array", "five"))(_malformed)


@stream(logs=False)
def ends_without_repository():
    yield differs(Step("end"), "W1", lambda side: not side.trailing)


@stream(logs=False)
def ends_after_negotiation():
    yield hello()
    yield call("inject_exception", kind="nothing")
    yield differs(Step("end"), "W1", lambda side: not side.trailing and "before repository was opened" in side.said)


@stream()
def ends_after_failed_open():
    yield hello()
    yield opening()


@stream()
def ends_within_transaction():
    yield from created(put(1), put(0), commit(), put(2), delete(1))
    yield RESTART
    yield hello()
    yield opening()
    yield get(1)
    yield get(2)
    yield call("__len__")
    yield put(3)
    yield commit()


@stream()
def ends_within_message():
    yield from created()
    yield Step("raw", "half a message", msgpack.packb({"i": 9, "m": "put", "a": {"id": key(1), "data": b"x" * 100}}, use_bin_type=False)[:50], more="then EOF")


@stream(environment={"BORG_EXIT_CODES": "modern"})
def ends_modern():
    yield from created()
    yield raw(b"\x93\x01\x02\x03", "array of three")


for _signal in (signal.SIGTERM, signal.SIGHUP):
    def _ends(number=_signal):
        yield from created(put(1), put(0), commit(), put(2))
        yield Step("signal", number.name, number)

    _ends.__name__ = f"ends_by_{_signal.name.lower()}"
    stream()(_ends)


@stream(logs=False, disk=False)
def ends_by_sigterm_at_work():
    """A signal while `open` waits for a lock that somebody else holds."""

    def hold(directory):
        (directory / "repo/lock.exclusive").mkdir()
        (directory / "repo/lock.exclusive/other@2.1-0").write_bytes(b"")

    yield from created(put(1), put(0), commit())
    yield RESTART
    yield disk(hold, "somebody holds the lock")
    yield hello()
    yield differs(Step("interrupted", "open", opening(lock_wait=8)), "W10", lambda code: code == 143)


@stream()
def ssh_command_levels():
    yield restart(SSH_ORIGINAL_COMMAND="borg serve --error")
    yield from created(put(1), put(0), commit())
    yield restart(SSH_ORIGINAL_COMMAND="FOO=1 /usr/bin/borg serve --info --umask=022 --restrict-to-path /nowhere")
    yield hello()
    yield opening()
    yield check()
    yield restart(SSH_ORIGINAL_COMMAND="borg list foo")
    yield hello()
    yield opening()
    yield get(1)


@stream(logs=False)
def ssh_command_words():
    for words in ("", "borg", "internal-sftp"):
        # Help on standard output is what an sftp client would read as packets.
        yield differs(restart(SSH_ORIGINAL_COMMAND=words), "W1", lambda side: not side.trailing)
        yield differs(Step("end"), "W22", lambda side: not side.trailing)
    yield RESTART
    yield hello()
    yield opening(create=True)


# --- transactions


@stream()
def transaction_examples():
    """The two transactions of the reference's examples."""
    yield from created(put(1, b"hello"), put(2, b"world!"), put(0, b"M1"), commit())
    yield from [put(1, b"HELLO2"), delete(2), put(0, b"M2"), commit(), call("__len__"), get(1), get(2), get(0)]


@stream()
def transaction_reads_of_uncommitted():
    yield from created(put(1), get(1), put(1, b"again"), get(1), delete(1), get(1), delete(1), put(1, b"third"), call("__len__"),
                       call("list"), call("scan"), put(0), commit(), get(1), call("scan"), call("__len__"))


@stream()
def transaction_rollback():
    yield from created(put(1), put(2), put(0), commit(), put(3), delete(1), put(0, b"M2"), call("__len__"), call("rollback"), call("__len__"),
                       get(1), get(3), call("rollback"), put(4), commit(), call("__len__"), call("scan"))


@stream(logs=False, disk=False)
def transaction_first_aborted():
    yield from created(put(1), put(2), call("rollback"))
    yield differs(put(3), "W8", returns(None))
    yield differs(put(0), "W8", returns(None))
    yield differs(commit(), "W8", returns(None))
    yield differs(call("__len__"), "W8", returns(2))
    yield differs(get(1), "W8", fails("ObjectNotFound"))
    yield RESTART
    yield hello()
    yield opening()
    yield differs(check(), "W8", returns(True))
    yield differs(call("__len__"), "W8", returns(2))
    yield Step("sound", "", 2)


@stream(logs=False, disk=False)
def transaction_first_cut_off():
    yield from created(put(1), put(2))
    yield RESTART
    yield hello()
    yield opening()
    yield differs(put(3), "W8", returns(None))
    yield differs(commit(), "W8", returns(None))
    yield differs(call("__len__"), "W8", returns(1))
    yield Step("sound", "", 1)


@stream(logs=False, disk=False)
def transaction_failed_overwrite():
    yield from created(put(1), put(0), commit(), put(1, bytes(MAX_DATA_SIZE + 1)))
    yield differs(put(2), "W9", returns(None))
    yield differs(commit(), "W9", returns(None))
    yield differs(get(1), "W9", returns(b"object 1"))
    yield RESTART
    yield disk(lambda d: [path.unlink() for path in (d / "repo").glob("index.*")], "lose the index")
    yield hello()
    yield opening()
    yield differs(get(1), "W9", returns(b"object 1"))
    yield differs(check(), "W9", returns(True))
    yield Step("sound", "", 3)


@stream()
def transaction_without():
    yield from created()
    yield differs(commit(), "W24", clear_or_nil)
    yield put(1)
    yield put(0)
    yield commit()
    yield differs(commit(), "W24", clear_or_nil)
    yield call("rollback")
    yield call("rollback")
    yield get(1)


@stream()
def transaction_segments():
    """Many small segments, more than one directory, the manifest always first in a file."""
    yield from created()
    yield from small_segments(200, 3)
    for number in range(1, 14):
        yield put(number, bytes([number]) * 60)
    yield put(0)
    yield put(14)
    yield commit()
    yield delete(3)
    yield put(0, b"M2")
    yield delete(0)
    yield put(5, b"five")
    yield put(0, b"M3")
    yield commit()
    yield call("scan")
    yield call("scan", limit=4)
    yield call("scan", limit=3, marker=key(9))
    yield call("scan", limit=100, marker=key(14))
    yield call("scan", marker=key(99))
    for limit in (1, 4, 100):
        yield pages(limit)
    yield call("list", limit=0)
    yield call("list", limit=5)
    yield call("list", marker=b"")
    yield call("list", marker=key(99))
    yield call("__len__")


@stream()
def transaction_index_grows():
    """Past the first bucket counts of the hash table, and back below them."""
    rng = random.Random(5)
    ids = [rng.randbytes(32) for _ in range(2400)]
    yield from created()
    yield together(*[call("put", id=identity, data=b"") for identity in ids])
    yield put(0)
    yield commit()
    yield call("__len__")
    yield pages(700)
    yield together(*[call("delete", id=identity) for identity in ids[:2200]])
    yield commit()
    yield pages(100)
    yield put(0, b"M2")  # only a transaction can be committed (W24)
    yield compacting()
    yield call("__len__")


@stream()
def transaction_key_and_nonce():
    yield from created(call("load_key"), call("save_key", keydata=b"key 1"), call("load_key"), call("get_free_nonce"),
                       call("commit_nonce_reservation", next_unreserved=5, start_nonce=None), call("get_free_nonce"),
                       call("commit_nonce_reservation", next_unreserved=9, start_nonce=4), call("commit_nonce_reservation", next_unreserved=9, start_nonce=None),
                       call("commit_nonce_reservation", next_unreserved=2**64 - 1, start_nonce=5), call("get_free_nonce"),
                       call("commit_nonce_reservation", next_unreserved=-1, start_nonce=2**64 - 1), call("get_free_nonce"))
    yield disk(lambda d: (d / "repo/nonce").write_text("00000000000000ff\n"), "newline after the nonce")
    yield call("get_free_nonce")
    yield disk(lambda d: (d / "repo/nonce").write_text("xyz"), "no number")
    yield call("get_free_nonce")
    yield disk(lambda d: (d / "repo/nonce").unlink(), "no nonce")
    yield call("get_free_nonce")
    yield opening(exclusive=False)
    yield call("get_free_nonce")
    yield call("commit_nonce_reservation", next_unreserved=5, start_nonce=None)
    yield call("save_key", keydata=b"under a shared lock")
    yield opening(lock=False)
    yield call("get_free_nonce")
    yield call("save_key", keydata=b"without a lock")
    yield disk(lambda d: (d / "repo/config.old").write_bytes(b"left behind"), "config.old")
    yield call("save_key", keydata=b"again")
    yield call("load_key")


@stream()
def transaction_free_space():
    yield from created(put(1), put(0), commit())
    yield setting(additional_free_space="900000000G")
    yield opening()
    yield put(2)
    yield put(3, b"x" * 1000)
    yield commit()
    yield call("__len__")
    yield get(2)
    yield setting(additional_free_space="0")
    yield opening()
    yield put(4)
    yield commit()


# --- compaction


def half_empty(size=300):
    """Segments of which some are dead, some half empty, some full, with deletes that must and need not be kept."""
    yield from created()
    yield from small_segments(size)
    for number in range(1, 13):
        yield put(number, bytes([number]) * 80)
    yield put(0)
    yield commit()
    for number in (1, 2, 3, 5, 8):
        yield delete(number)
    yield put(10, b"ten anew")
    yield put(0, b"M2")
    yield commit()
    yield put(1, b"back again")
    yield delete(12)
    yield put(0, b"M3")


for _threshold in (0.0, 0.1, 0.3, 0.5, 0.75, 1.0, 2.0):
    def _compaction(threshold=_threshold):
        yield from half_empty()
        yield compacting(threshold)
        yield call("scan")
        yield put(20)
        yield compacting(threshold, cleanup_commits=True)
        yield call("scan")
        yield check()

    _compaction.__name__ = f"compaction_threshold_{_threshold}"
    stream()(_compaction)


@stream()
def compaction_rounds():
    """Sizes halfway between two hundredths in decimal, but not in binary, are rounded as Python does."""
    for size in (40135, 20235, 21435, 1005, 1015, 1000005):
        yield from created() if size == 40135 else [opening()]
        yield put(1, bytes(size - 41))
        yield commit()
        yield delete(1)
        yield compacting()


@stream()
def compaction_defaults():
    """1.1 clients send save_space only and expect it to compact."""
    yield from half_empty()
    yield call("commit", save_space=False)
    yield call("scan")
    yield delete(4)
    yield call("commit")
    yield check()


@stream()
def compaction_repeated():
    for step in half_empty(150):
        yield step
    yield compacting()
    for number in range(4, 9):
        yield call("put", id=key(0), data=b"M%d" % number)
        yield put(number, b"new %d" % number)
        yield compacting(0.1, cleanup_commits=number % 2 == 0)
        yield LOOK
    yield call("scan")
    yield put(0, b"last")
    yield compacting(0)
    yield put(0, b"last")
    yield compacting(0)
    yield check()


@stream()
def compaction_keeps_deletes():
    """A DELETE stays while an older PUT of it stands in a segment that is not compacted."""
    yield from created()
    yield from small_segments(100000)
    yield put(1, b"a" * 100)
    yield put(2, b"b" * 50000)
    yield put(0)
    yield commit()
    yield delete(1)
    yield commit()
    yield put(3)
    yield compacting(0.5)
    yield call("scan")
    yield disk(lambda d: [path.unlink() for name in ("index.*", "hints.*", "integrity.*") for path in (d / "repo").glob(name)], "lose the index")
    yield opening()
    yield call("scan")
    yield get(1)
    yield delete(2)
    yield compacting(0.1)
    yield check()


@stream()
def compaction_missing_segment():
    yield from half_empty()
    yield commit()
    yield edit("data/0/*", lose, last=False)
    yield opening()
    yield put(30)
    yield compacting()
    yield call("__len__")


@stream()
def compaction_replayed():
    """The index of before a compaction comes back: it is replayed from."""
    kept = {}
    names = ("index", "hints", "integrity")
    yield from half_empty()
    yield commit()
    yield disk(lambda d: kept.__setitem__(d, {p.name: p.read_bytes() for n in names for p in (d / "repo").glob(f"{n}.*")}), "remember")
    yield put(30)
    yield commit()

    def back(directory):
        for name in names:
            for path in (directory / "repo").glob(f"{name}.*"):
                path.unlink()
        for name, content in kept[directory].items():
            (directory / "repo" / name).write_bytes(content)

    yield disk(back, "the index of before")
    yield opening()
    yield call("__len__")
    yield call("scan")
    yield put(31)
    yield compacting()
    yield check()


# --- append-only, quota


@stream()
def appendonly_created():
    yield from created(append_only=True)
    yield from [put(1), put(0), commit(), delete(1), put(0, b"M2"), compacting(), call("destroy"), check(repair=True), check(),
                call("save_key", keydata=b"key"), call("break_lock")]
    yield RESTART
    yield hello()
    yield opening()
    yield put(2)
    yield compacting(0)
    yield setting(append_only=0)
    yield opening()
    yield put(3)
    yield compacting(0)


@stream(arguments=["--append-only"])
def appendonly_served():
    yield from created(put(1), put(0), commit(), delete(1), put(0, b"M2"), compacting())
    yield restart("--append-only")
    yield hello()
    yield opening()
    yield put(2)
    yield delete(0)
    yield put(0, b"M3")
    yield compacting()
    yield call("destroy")
    yield check(repair=True)
    yield LOOK
    yield RESTART
    yield hello()
    yield opening()
    yield put(3)
    yield compacting(0)


@stream(disk=False)
def quota_own():
    yield from created()
    yield setting(storage_quota="1000")
    yield opening()
    yield put(1, b"x" * 500)
    yield put(0)
    yield commit()
    yield LOOK
    yield put(2, b"y" * 200000)
    yield commit()
    yield call("__len__")
    yield opening()  # which closes what is being written
    yield differs(disk(lambda d: None, "nothing was written"), "W12", lambda side: sum(p.stat().st_size for p in (side.directory / "repo/data").rglob("*") if p.is_file()) < 1000)
    yield call("__len__")
    yield put(3, b"z" * 100)
    yield commit()
    yield delete(1)
    yield put(0, b"M2")
    yield compacting()
    yield put(4, b"w" * 500)
    yield commit()
    yield call("__len__")
    yield Step("sound", "", 3)


@stream(arguments=["--storage-quota", "10M"])
def quota_served():
    yield from created(put(1, b"x" * 4000000), put(0), commit())
    yield restart("--storage-quota", "12M")
    yield hello()
    yield opening()
    yield put(2, b"x" * 5000000)
    yield commit()
    yield restart("--storage-quota", "0")
    yield hello()
    yield opening()
    yield put(3, b"x" * 5000000)
    yield commit()
    yield call("__len__")


@stream()
def quota_counted():
    """Deleting lowers the use when it is compacted; a rebuild counts everything that is on disk."""
    yield from created()
    yield setting(storage_quota="100000")
    yield from half_empty()
    yield commit()
    yield put(30)
    yield compacting(0.6)
    yield edit("hints.*", lose)
    yield opening()
    yield put(31)
    yield commit()


# --- check and damage


def filled(*more):
    """Three commits, with overwritten and deleted objects, in small segments."""
    yield from created()
    yield from small_segments(400)
    for number in range(1, 9):
        yield put(number, bytes([number]) * 100)
    yield put(0)
    yield commit()
    yield delete(3)
    yield put(4, b"four")
    yield put(0, b"M2")
    yield commit()
    yield put(9, b"nine")
    yield put(0, b"M3")
    yield commit()
    yield from more


CHECKED = [check(), call("__len__"), call("scan"), *[get(number) for number in (0, 1, 3, 4, 9)]]


def aftermath(repair=True):
    """What the damage looks like to reading calls, to check, to repair, and after that."""
    yield opening()
    yield from CHECKED
    if repair:
        yield check(repair=True)
        yield from CHECKED
    yield put(40)
    yield put(0, b"M4")
    yield commit()
    yield check()
    yield call("scan")


@stream()
def check_sound():
    yield from filled()
    yield check()
    yield check(repair=True)
    yield check()
    yield check(max_duration=3600)
    yield put(10)
    yield check()
    yield call("rollback")
    yield check()


@stream()
def check_config_untouched():
    number = {}
    yield from filled()
    yield disk(lambda d: number.__setitem__(d, (d / "repo/config").stat()), "remember the config")
    yield check()
    same = lambda side: (lambda before, now: (before.st_ino, before.st_mtime_ns) == (now.st_ino, now.st_mtime_ns))(number[side.directory], (side.directory / "repo/config").stat())
    yield differs(disk(lambda d: None, "the config is the same file"), "W14", same)
    yield setting(last_segment_checked=3)
    yield opening()
    yield check()


@stream()
def check_partial():
    yield from filled()
    yield setting(last_segment_checked=3)
    yield opening()
    yield check(max_duration=3600)
    yield check(max_duration=1e-9)
    yield check(max_duration=1e-9)
    yield LOOK
    yield check(max_duration=3600)
    yield check(max_duration=1e-9)
    yield check(repair=True, max_duration=10)
    yield call("rollback")
    yield check()
    yield edit("data/0/*", flip(60), last=False)
    yield check(max_duration=3600)


@stream()
def check_shared_lock():
    yield from filled()
    yield opening(exclusive=False)
    yield check()
    yield opening(lock=False)
    yield check()


@stream()
def check_empty():
    yield from created(check(), check(repair=True), call("__len__"), call("list"), call("scan"), get(1), delete(1), call("rollback"))


DAMAGES = {
    "data_flipped": [edit("data/0/*", flip(70), last=False)],
    "header_flipped": [edit("data/0/*", flip(14), last=False)],
    "magic_flipped": [edit("data/0/*", flip(2), last=False)],
    "tag_flipped": [edit("data/0/*", flip(16), last=False)],
    "truncated": [edit("data/0/*", truncate(100), last=False)],
    "truncated_to_header": [edit("data/0/*", truncate(12), last=False)],
    "emptied": [edit("data/0/*", empty, last=False)],
    "garbage_appended": [edit("data/0/*", lambda content: content + b"garbage" * 5, last=False)],
    "commit_flipped": [edit("data/0/*", flip(-1))],
    "commit_truncated": [edit("data/0/*", truncate(12))],
}
INDEXES = {
    "index_lost": [edit("index.*", lose)],
    "index_flipped": [edit("index.*", flip(1000))],
    "index_header_flipped": [edit("index.*", flip(9))],
    "index_truncated": [edit("index.*", truncate(500))],
    "index_garbage": [edit("index.*", garbage)],
    "hints_lost": [edit("hints.*", lose)],
    "hints_flipped": [edit("hints.*", flip(20))],
    "hints_truncated": [edit("hints.*", truncate(10))],
    "hints_emptied": [edit("hints.*", empty)],
    "hints_garbage": [edit("hints.*", garbage)],
    "integrity_lost": [edit("integrity.*", lose)],
    "integrity_other_version": [edit("integrity.*", lambda content: msgpack.packb({"version": 3}))],
    "integrity_unknown_algorithm": [edit("integrity.*", lambda content: content.replace(b"XXH64", b"XXH99"))],
    "integrity_wrong_digest": [edit("integrity.*", lambda content: re.sub(rb"final\": \"\w{4}", b"final\": \"0000", content))],
    "all_lost": [edit("index.*", lose), edit("hints.*", lose), edit("integrity.*", lose)],
    "index_and_integrity_lost": [edit("index.*", lose), edit("integrity.*", lose)],
    "stale_tmp": [disk(lambda d: [(d / "repo" / name).write_bytes(b"x") for name in ("index.99.tmp", "hints.3.tmp", "integrity.7.tmp")], "unfinished files")],
    "older_index": [disk(lambda d: [path.rename(path.with_suffix(".2")) for name in ("index", "hints", "integrity") for path in (d / "repo").glob(f"{name}.*")], "an older number")],
    "newer_index": [disk(lambda d: [path.rename(path.with_suffix(".100")) for name in ("index", "hints", "integrity") for path in (d / "repo").glob(f"{name}.*")], "a newer number")],
    "stray_files": [disk(lambda d: [(d / "repo/data/0/stray").write_bytes(b"x"), (d / "repo/data/x").mkdir(), (d / "repo/index.x").write_bytes(b"x")], "stray files")],
}

for _name, _damage in DAMAGES.items():
    def _segment(damage=_damage):
        yield from filled()
        yield from damage
        yield from aftermath()

    _segment.__name__ = f"check_segment_{_name}"
    stream()(_segment)

for _name, _damage in INDEXES.items():
    def _index(damage=_damage):
        yield from filled()
        yield from damage
        yield from aftermath(repair=False)

    def _read(damage=_damage):
        """The same, first seen by a client that only reads, then by one that writes at once."""
        yield from filled()
        yield from damage
        yield opening(exclusive=False)
        yield get(1)
        yield call("__len__")
        yield LOOK  # the lock is a shared one again
        yield RESTART
        yield hello()
        yield opening()
        yield from damage
        yield put(50)
        yield commit()
        yield call("scan")

    _index.__name__, _read.__name__ = f"damage_{_name}", f"damage_{_name}_read"
    stream()(_index)
    if "lost" not in _name and "_index" not in _name and "stray" not in _name:
        stream()(_read)


@stream()
def damage_hints_then_rollback():
    """What a transaction had to find out for itself is kept for the next one, even if it is given up."""
    yield from filled()
    yield edit("hints.*", truncate(10))
    yield opening()
    yield put(40)
    yield call("rollback")
    yield opening()  # which closes what was being written
    yield LOOK
    yield put(41)
    yield commit()


@stream(logs=False, disk=False)
def damage_integrity_garbage():
    for damage in (garbage, empty, lambda content: msgpack.packb({"version": 2}), truncate(20)):
        yield from filled() if damage is garbage else [hello(), opening()]
        yield edit("integrity.*", damage)
        yield opening()
        yield differs(get(1), "W4", returns(b"\x01" * 100))
        yield differs(put(2, b"two"), "W3", returns(None))
        yield differs(commit(), "W4", returns(None))
        yield RESTART
    yield Step("sound", "", 9)


@stream()
def check_commits_lost():
    yield from filled()
    yield disk(lambda d: [path.unlink() for path in (d / "repo/data/0").iterdir() if path.stat().st_size == 17], "lose all commits")
    yield opening()
    yield get(1)
    yield check()
    yield check(repair=True)
    yield from CHECKED


@stream()
def check_segments_lost():
    yield from filled()
    yield disk(lambda d: [path.unlink() for path in (d / "repo/data/0").iterdir()], "lose all segments")
    yield opening()
    yield get(1)
    yield check()


@stream()
def check_repair_lost_segment():
    yield from filled()
    yield edit("data/0/*", lose, last=False)
    yield opening()
    yield check()
    yield RESTART
    yield hello()
    yield opening()
    yield check(repair=True)
    yield from CHECKED
    yield put(40)
    yield commit()
    yield check()


@stream(logs=False, disk=False)
def check_repair_without_data():
    yield from filled()
    yield disk(lambda d: shutil.rmtree(d / "repo/data"), "lose data/")
    yield differs(opening(), "W7", succeeds)
    yield differs(check(), "W5", returns(False))
    yield differs(check(repair=True), "W7", returns(True))
    yield differs(Step("logged", "ERROR", "\"ERROR\""), "W7", lambda found: found)
    yield differs(check(), "W7", returns(True))
    yield differs(call("__len__"), "W7", returns(0))
    yield differs(put(1), "W7", returns(None))
    yield differs(commit(), "W7", returns(None))
    yield Step("sound", "", 1)


@stream()
def check_under_open_connection():
    """Upstream's tests damage files between two calls of one connection, without opening again."""
    yield from created(put(1), put(2), commit(), put(3), commit(), get(1), call("list"))
    yield edit("data/0/*", flip(-1))
    yield get(3)
    yield call("__len__")
    yield check()
    yield check()
    yield check(repair=True)
    yield check()
    yield get(1)
    yield get(3)


# --- older forms


@stream()
def legacy_hints_version_1():
    def downgrade(directory):
        path = next((directory / "repo").glob("hints.*"))
        hints = msgpack.unpackb(path.read_bytes(), raw=True, strict_map_key=False)
        old = {b"version": 1, b"segments": hints[b"segments"], b"compact": sorted(hints[b"compact"])}
        path.write_bytes(msgpack.packb(old, use_bin_type=False))
        next((directory / "repo").glob("integrity.*")).unlink()

    yield from half_empty()
    yield commit()
    yield disk(downgrade, "hints of Borg 1.0")
    yield opening()
    yield get(1)
    yield put(30)
    yield commit()
    yield disk(downgrade, "hints of Borg 1.0")
    yield opening()
    yield put(31)
    yield compacting()
    yield call("scan")


@stream()
def legacy_hints_without_shadow():
    """As 1.1 writes them; compaction then keeps deletes."""

    def downgrade(directory):
        path = next((directory / "repo").glob("hints.*"))
        hints = msgpack.unpackb(path.read_bytes(), raw=True, strict_map_key=False)
        del hints[b"shadow_index"]
        path.write_bytes(msgpack.packb(hints, use_bin_type=False))
        next((directory / "repo").glob("integrity.*")).unlink()

    yield from half_empty()
    yield commit()
    yield disk(downgrade, "hints of Borg 1.1")
    yield opening()
    yield put(30)
    yield compacting(0.1)
    yield call("scan")
    yield check()


@stream()
def legacy_hints_unknown():
    def upgrade(directory):
        next((directory / "repo").glob("hints.*")).write_bytes(msgpack.packb({"version": 7}))
        next((directory / "repo").glob("integrity.*")).unlink()

    yield from created(put(1), put(0), commit())
    yield disk(upgrade, "hints of the future")
    yield opening()
    yield get(1)
    yield put(2)
    yield call("rollback")
    yield get(1)


@stream()
def legacy_config():
    """A repository as 1.0 made it: other sizes, keys that are missing."""

    def rewrite(directory):
        config = directory / "repo/config"
        identity = re.search(r"id = (\w+)", config.read_text())[1]
        config.write_text(f"[repository]\nversion = 1\nsegments_per_dir = 10000\nmax_segment_size = 5242880\nid = {identity}\n\n")
        (directory / "repo/README").write_text("This is a Borg repository\n")

    yield from created(put(1), put(0), commit())
    yield disk(rewrite, "config and README of 1.0")
    yield opening()
    yield get(1)
    yield put(2)
    yield compacting()
    yield check()
    yield call("save_key", keydata=b"key")
    yield opening(create=True)


@stream()
def legacy_attic():
    yield from created(put(1), commit())
    yield edit("data/0/*", lambda content: b"ATTICSEG" + content[8:])
    yield opening()
    yield opening()


@stream()
def legacy_unknown_tag():
    def append(directory):
        body = struct.pack("<IB", 50, 3) + b"\x07" * 41
        with open(directory / "repo/data/0/2", "wb") as segment:
            segment.write(b"BORG_SEG" + struct.pack("<I", zlib.crc32(body)) + body)

    yield from created(put(1), commit())
    yield disk(append, "an entry of Borg 2")
    yield opening()
    yield call("__len__")
    yield check()
    yield put(2)
    yield commit()


# --- locks


def locked(directory, *, host="other@2", number=1, roster=None, name=None):
    if roster is None:
        (directory / "repo/lock.exclusive").mkdir()
        (directory / "repo/lock.exclusive" / (name or f"{host}.{number}-0")).write_bytes(b"")
    else:
        (directory / "repo/lock.roster").write_text(json.dumps(roster))


DEAD = 2**22 - 3  # above any pid that a system of this size gives out
LOCKS = {
    "exclusive_by_other": dict(),
    "exclusive_stale": dict(host=HOST_ID, number=DEAD),
    "malformed": dict(name="nonsense"),
    "shared_by_other": dict(roster={"shared": [["other@2", 1, 0]]}),
    "shared_stale": dict(roster={"shared": [[HOST_ID, DEAD, 0], ["other@2", 1, 0]], "exclusive": []}),
    "exclusive_roster_stale": dict(roster={"exclusive": [[HOST_ID, DEAD, 0]]}),
    "roster_only_stale": dict(roster={"shared": [[HOST_ID, DEAD, 0]]}),
}

for _name, _lock in LOCKS.items():
    def _locked(lock=_lock):
        yield from created(put(1), put(0), commit())
        yield RESTART
        yield disk(lambda d: locked(d, **lock), "a lock")
        yield hello()
        yield opening(lock_wait=0.3)
        yield opening(lock_wait=0, exclusive=False)
        yield LOOK
        yield opening(lock=False)
        yield get(1)
        yield call("break_lock")
        yield LOOK
        yield opening()

    _locked.__name__ = f"lock_{_name}"
    stream()(_locked)


@stream()
def lock_files():
    yield from created(LOOK, put(1), put(0), commit(), opening(exclusive=False), LOOK, get(1), call("break_lock"), LOOK, get(1), opening(exclusive=None), LOOK, put(2), LOOK, commit())
    yield disk(lambda d: (d / "repo/lock.roster").write_text("not json"), "a broken roster")
    yield opening(exclusive=False)


@stream()
def lock_broken_by_other():
    """Somebody breaks the lock under a writer."""
    yield from created(put(1), put(0), commit())
    yield disk(lambda d: [shutil.rmtree(d / "repo/lock.exclusive"), (d / "repo/lock.roster").unlink()], "break the lock")
    yield put(2)
    yield call("rollback")
    yield get(1)
    yield call("get_free_nonce")


# --- random streams ---------------------------------------------------------------------------------------------------


def random_stream(seed, length, *, gathered):
    """A life of a repository; `gathered`: the requests of a transaction are sent before the first answer is read."""
    rng = random.Random(seed)
    ids = [rng.randbytes(32) for _ in range(25)] + [key(0)]
    yield from created()
    yield setting(max_segment_size=rng.choice([200, 1000, 5000, 100000]), segments_per_dir=rng.choice([1, 3, 1000]))
    yield opening()
    waiting, fresh, whole = [], True, True
    for _ in range(length):
        kind, identity = rng.random(), rng.choice(ids)
        if kind < 0.45:
            step = call("put", id=identity, data=rng.randbytes(rng.choice([0, 1, 10, 100, 100, 1000, 20000])))
        elif kind < 0.60:
            step = call("delete", id=identity)
        elif kind < 0.72:
            step = call("get", id=identity)
        elif kind < 0.75:
            step = rng.choice([call("__len__"), call("scan"), call("list")])
        elif kind < 0.90:
            if gathered and waiting:
                yield together(*waiting)
                waiting = []
            # The first transaction is always committed: W8.
            if fresh:
                yield call("put", id=key(0), data=b"manifest")
                yield commit()
                fresh = False
            elif kind < 0.77:
                yield call("rollback")
            elif kind < 0.79:
                yield pages(rng.choice([1, 5, 100]))
            else:
                # Only a transaction can be committed: W24.
                yield call("put", id=key(0), data=b"manifest %d" % rng.randrange(1000))
                yield rng.choice([commit(), compacting(rng.choice([0, 0.1, 0.3, 0.7])), compacting(0.1, cleanup_commits=True), call("commit")])
                whole = True  # index and hints are written anew
            continue
        elif fresh:
            continue
        elif kind < 0.93:
            step = rng.choice([call("save_key", keydata=rng.randbytes(30).hex()), call("load_key"), call("get_free_nonce")])
        else:
            if gathered and waiting:
                yield together(*waiting)
                waiting = []
            if kind < 0.96:
                yield opening()
            elif kind < 0.97:
                yield call("rollback")
                yield check(repair=rng.random() < 0.3)
            elif kind < 0.985 and whole:
                whole = False
                yield opening()
                yield rng.choice([damage for damages in INDEXES.values() for damage in damages if damage.name != "stray files"])
                yield opening()
                yield call("__len__")
            else:
                yield RESTART
                yield hello()
                yield opening()
            continue
        if gathered:
            waiting.append(step)
        else:
            yield step
    yield opening()
    if not fresh:
        yield check()
    yield call("scan")


# --- servers ----------------------------------------------------------------------------------------------------------


class Answer:
    """What came back for one request, in either form."""

    def __init__(self, received):
        self.message = received
        if isinstance(received, dict):
            self.form, self.number = "dict", received.get(b"i")
            self.failed = b"exception_class" in received
            self.error = text(received.get(b"exception_class"))
            self.arguments = received.get(b"exception_args")
            self.short = received.get(b"exception_short")
            self.value = received.get(b"r")
        elif isinstance(received, list) and len(received) == 4:
            self.form = "tuple"
            _, self.number, self.error, self.value = received
            self.failed = self.error is not None
            self.error, self.arguments, self.short = text(self.error), [], []
        else:
            raise bed.Hangup(f"this is no answer: {received!r}")

    def __repr__(self):
        return f"{self.error}{self.arguments!r} {self.short!r}" if self.failed else f"value {self.value!r}"


def text(value):
    return value.decode(errors="surrogateescape") if isinstance(value, bytes) else value


class Server(bed.Server):
    """Speaks the 1.x dialect, and keeps what was received to see whether it is in the old msgpack's form."""

    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self._pack = msgpack.Packer(use_bin_type=False, unicode_errors="surrogateescape").pack
        self._unpacker = msgpack.Unpacker(raw=True, strict_map_key=False, use_list=True, max_buffer_size=0)
        self.complaints, self.unread, self._position = [], b"", 0

    def read(self, timeout=60):
        deadline = time.monotonic() + timeout
        while True:
            for received in self._unpacker:
                length, self._position = self._unpacker.tell() - self._position, self._unpacker.tell()
                form, self.unread = self.unread[:length], self.unread[length:]
                if form != self._pack(received):
                    self.complaints.append(f"not packed as the original would: {form[:60].hex(' ')}")
                return received
            ready, _, _ = bed.select.select([self.process.stdout], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise bed.Hangup(f"no answer within {timeout} s")
            data = os.read(self.process.stdout.fileno(), 1 << 20)
            if not data:
                raise bed.Hangup(f"the server hung up (exit code {self.process.wait(10)})")
            self.unread += data
            self._unpacker.feed(data)

    def end(self, timeout=20):
        """Closes the input; the exit code and what else came on standard output, whatever it is."""
        if not self.process.stdin.closed:
            self.process.stdin.close()
        trailing = self.unread
        try:
            with self.process.stdout as output:
                os.set_blocking(output.fileno(), True)
                trailing += output.read()
            return self.process.wait(timeout), trailing
        except subprocess.TimeoutExpired:
            self.kill()
            return "timeout", trailing


# --- what is on disk --------------------------------------------------------------------------------------------------

LOADER = """
import json, sys
from borg.crypto.file_integrity import IntegrityCheckedFile
from borg.hashindex import NSIndex
from borg.logger import setup_logging
setup_logging(level="critical")
for line in sys.stdin:
    path, integrity = json.loads(line)
    try:
        with IntegrityCheckedFile(path, write=False, integrity_data=integrity) as file:
            if "/index." in path:
                index = NSIndex.read(file)
                found = {id.hex(): list(value) for id, value in index.iteritems()}
                if len(found) != len(index) or any(list(index[bytes.fromhex(id)]) != value for id, value in found.items()):
                    found = "inconsistent"
            else:
                file.read()
                found = "read"
    except Exception as error:
        found = f"{type(error).__name__}: {error}"
    print(json.dumps(found), flush=True)
"""


class Loader:
    """The original's own code for indexes and their digests, in a process that reads one file after the other."""

    def __init__(self, version):
        self._lock = threading.Lock()
        python = bed.client_path(version).with_name("python")
        self._process = subprocess.Popen([python, "-c", LOADER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def load(self, path, integrity):
        with self._lock:
            print(json.dumps([str(path), integrity]), file=self._process.stdin, flush=True)
            return json.loads(self._process.stdout.readline())

    def close(self):
        self._process.stdin.close()
        self._process.wait()


class Side:
    """One of the two servers: a process, its directory, and what was seen."""

    def __init__(self, name, command, directory, arguments, environment):
        self.name, self.command, self.directory = name, command, directory
        self.records, self.progress, self.complaints = [], collections.Counter(), []
        self.said, self.trailing, self.spelt, self.marker = "", b"", None, 0
        directory.mkdir(parents=True)
        self.start(arguments, environment)

    def start(self, arguments=(), environment={}):
        self.died = False
        self.server = Server(self.command, *(arguments if "--critical" in arguments else ["--info", *arguments]), cwd=self.directory, environment={
            "BORG_HOST_ID": HOST_ID, "BORG_BASE_DIR": str(self.directory.parent / "home"), "BORG_SELFTEST": "disabled", **environment})

    def stop(self):
        if self.server.process.stdout.closed:
            return self.server.process.returncode
        code, self.trailing = self.server.end()
        self.complaints += self.server.complaints
        self.said = self.server.errors()
        self._take(self.said)
        return code

    def _take(self, said):
        """Sorts standard error's lines into records; text without a form belongs to tracebacks and help."""
        for line in re.split(r"[\r\n]+", said):
            if line.startswith("{"):
                try:
                    record = json.loads(line)
                except ValueError:
                    self.complaints.append(f"not JSON: {line[:200]}")
                    continue
                if record.get("type") in ("log_message", "progress_percent") and not isinstance(record.get("time"), float):
                    self.complaints.append(f"no time: {line[:200]}")
                record.pop("time", None)
                if record.get("type") == "log_message":
                    self._log("json", record.get("levelname"), record.get("name"), str(record.get("message")), record.get("msgid"), *sorted(set(record) - {"type", "levelname", "name", "message", "msgid"}))
                else:
                    self.progress[json.dumps(record, sort_keys=True)] += 1
            elif line.startswith("$LOG "):
                _, level, name, said = (line.split(" ", 3) + ["", ""])[:4]
                self._log("$LOG", level, name, said.removeprefix("Remote: ") if said.startswith("Remote: ") else f"no Remote: {said}", None)

    def _log(self, form, level, name, said, *more):
        # Progress as text is for clients up to 1.0 only, which get none from ours.
        if said.startswith("Traceback") or (form, name) == ("$LOG", "borg.output.progress"):
            return
        # Without a traceback (W23) the message itself has to say what the exception was.
        said = re.sub(r"^\w+( Exception in RPC call$|(Error|Exception): .*)", "some Exception in RPC call", said.split("\nTraceback")[0].strip())
        self.records.append((form, level, name, self.mask(said), *more))

    def mask(self, value):
        """Values with this side's own directory, process ids and temporary names made alike."""
        if isinstance(value, bytes):
            return self.mask(text(value)).encode(errors="surrogateescape")
        if isinstance(value, str):
            value = value.replace(str(self.directory), "@")
            value = re.sub(r"(lock\.exclusive\.|config-|nonce-)[\w]+\.tmp", r"\1X.tmp", value)
            value = re.sub(rf"({re.escape(HOST_ID)}\.)(?!{DEAD})\d+(-\d)", r"\1PID\2", value)
            value = re.sub(r"tid\.\d+|\bpid (?!4194301)\d+", "pid PID", value)
            return re.sub(r"available: [\d.]+ \w+", "available: N", value)
        if isinstance(value, list):
            return [self.mask(item) for item in value]
        return value

    def files(self):
        """{masked path: (kind, mode, path)}"""
        found = {}
        for path in sorted(self.directory.rglob("*")):
            info = path.lstat()
            found[self.mask(str(path.relative_to(self.directory)))] = (bed.stat.filemode(info.st_mode), path)
        return found


def hints_of(content):
    """What hints say; a list's order in the shadow index means nothing."""
    said = msgpack.unpackb(content, raw=True, strict_map_key=False)
    if msgpack.packb(said, use_bin_type=False) != content:
        raise ValueError("not packed as the original would")
    if isinstance(said.get(b"shadow_index"), dict):
        said[b"shadow_index"] = {identity: sorted(segments) for identity, segments in said[b"shadow_index"].items()}
    return said


def integrity_of(content):
    said = msgpack.unpackb(content, raw=True)
    return {name: value if name == b"version" else json.loads(value) for name, value in said.items()}


def form_of(said):
    """Integrity data without the digests, which the loader verifies."""
    return {name: value if name == b"version" else (value["algorithm"], sorted(value["digests"])) for name, value in said.items()}


def shorten(content):
    return content if len(content) < 200 else content[:80] + b"..." + content[-80:] + b" (%d bytes)" % len(content)


def compare_files(sides, loader):
    """Complaints about differences on disk."""
    complaints = []
    found = [side.files() for side in sides]
    for name in sorted(found[0].keys() | found[1].keys()):
        if name not in found[1]:
            complaints.append(f"missing: {name}")
        elif name not in found[0]:
            complaints.append(f"only ours: {name}")
        elif found[0][name][0] != found[1][name][0]:
            complaints.append(f"{name}: {found[1][name][0]} instead of {found[0][name][0]}")
        elif found[0][name][0][0] == "-":
            paths = [of[name][1] for of in found]
            contents = [path.read_bytes() for path in paths]
            if contents[0] != contents[1] and (text := compare_contents(name, paths, contents, sides, loader)):
                complaints.append(f"{name}: {text}")
    return "\n".join(complaints[:20])


def compare_contents(name, paths, contents, sides, loader):
    base = paths[0].name
    if all(re.fullmatch(r"hints\.\d+", base) and kind_of(loader.load(path, integrity_for(path, b"hints"))) == "FileIntegrityError" for path in paths):
        return None  # damaged by the stream, in another byte's meaning on each side
    try:
        if re.fullmatch(r"index\.\d+", base):
            loaded = [loader.load(path, integrity_for(path, b"index")) for path in paths]
            return None if loaded[0] == loaded[1] else bed.difference(loaded[0], loaded[1]) if isinstance(loaded[1], dict) and isinstance(loaded[0], dict) else f"{brief(loaded[1])} instead of {brief(loaded[0])}"
        if re.fullmatch(r"hints\.\d+", base):
            said = [hints_of(content) for content in contents]
            read = [loader.load(path, integrity_for(path, b"hints")) for path in paths]
            if kind_of(read[0]) != kind_of(read[1]):
                return f"{read[1]} instead of {read[0]}"
            return None if said[0] == said[1] else bed.difference(said[0], said[1])
        if re.fullmatch(r"integrity\.\d+", base):
            said = [integrity_of(content) for content in contents]
            for part in ("index", "hints"):
                beside = [path.with_name(base.replace("integrity", part)) for path in paths]
                results = [loader.load(path, integrity_for(path, part.encode())) for path in beside]
                if kind_of(results[0]) != kind_of(results[1]):
                    return f"{part}: {brief(results[1])} instead of {brief(results[0])}"
            return None if form_of(said[0]) == form_of(said[1]) else f"{said[1]} instead of {said[0]}"
    except (ValueError, KeyError, TypeError, AttributeError, OSError, msgpack.UnpackException) as error:
        return f"{error!r}: {brief(contents[1])} instead of {brief(contents[0])}"
    if base.startswith("config"):
        contents = [re.sub(rb"(?m)^(id ?[:=] )[0-9a-f]{64}$", rb"\1ID", content) for content in contents]
    elif base == "transactions":
        contents = [re.sub(rb"UTC time \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}\n", b"UTC time T\n", content) for content in contents]
    elif base == "lock.roster":
        # The original's lists come from sets.
        contents = [re.sub(rb"(\"%s\", )\d+" % HOST_ID.encode(), rb'\1"PID"', content) for content in contents]
        contents = [{kind: sorted(map(str, of)) for kind, of in json.loads(content).items() if of} for content in contents]
    return None if contents[0] == contents[1] else f"{shorten(contents[1])!r} instead of {shorten(contents[0])!r}"


def kind_of(loaded):
    """What became of an attempt to load: an index, "read", or an exception's class."""
    return loaded.split(":")[0] if isinstance(loaded, str) else "an index"


def integrity_for(path, part):
    """The integrity data that stands beside a file, if it is of a known version."""
    beside = path.with_name("integrity." + path.name.split(".")[1])
    return text(msgpack.unpackb(beside.read_bytes(), raw=True).get(part)) if beside.exists() else None


# --- comparing answers ------------------------------------------------------------------------------------------------


def plain(answer, side, intended, spelt=None):
    """What is compared of an answer; `spelt`: the path of the last `open` as the client wrote it, for the real one."""
    keys = list(answer.message) if isinstance(answer.message, dict) else None
    mask = side.mask
    if spelt:
        mask = lambda value: [mask(item) for item in value] if isinstance(value, list) else respell(side.mask(value), *spelt)
    if not answer.failed:
        return (answer.form, answer.number, keys, "value", answer.value)
    trace = answer.message.get(b"exception_trace") if answer.form == "dict" else answer.value
    arguments, short = list(answer.arguments or []), answer.short
    if answer.error == "InsufficientFreeSpaceError":
        arguments[1:] = [b"N"]
    if answer.error in OFTEN_STUMBLED and answer.form == "dict":
        short = "a fixed text, quoted or not"
    if "W23" in intended and answer.form == "tuple":
        trace = "some text"
    if "W23" in intended and answer.error == "AlreadyExists":
        arguments, short = [type(item) for item in arguments], "which may be a parent"
    return (answer.form, answer.number, answer.error, mask(arguments), mask(short), trace)


def respell(value, resolved, spelt):
    if isinstance(value, bytes):
        return value.replace(resolved, spelt)
    return value


ERROR_KEYS = [b"i", b"exception_class", b"exception_args", b"exception_full", b"exception_short", b"exception_trace", b"sysinfo"]


def well_formed(answer):
    """Complaints about the form of our answer: what would make some client crash, and what W23 is about."""
    if not answer.failed:
        return [] if answer.form == "tuple" or b"r" in answer.message else ["no result"]
    if answer.form == "tuple":
        return [] if answer.value and isinstance(answer.value, bytes) else [f"the text is {answer.value!r}"]
    complaints = []
    if [name for name in ERROR_KEYS if name in answer.message] != list(answer.message):
        complaints.append(f"keys are {list(answer.message)}")
    forms = {b"exception_class": bytes, b"exception_args": list, b"exception_full": list, b"exception_short": list, b"exception_trace": bool, b"sysinfo": bytes}
    complaints += [f"{name} is {type(answer.message[name]).__name__}" for name, form in forms.items() if name in answer.message and not isinstance(answer.message[name], form)]
    for name in (b"exception_full", b"exception_short"):
        if not answer.message.get(name) or not all(isinstance(line, bytes) for line in answer.message[name]):
            complaints.append(f"{name} is {answer.message.get(name)!r}")
    return complaints


def reveals(answer, server):
    """W23: what an error tells about the machine."""
    if not answer.failed or answer.form == "tuple":
        return []
    whole = repr([answer.message.get(name) for name in (b"exception_full", b"sysinfo", b"exception_short")])
    return [word for word in ("Traceback", server, "--info", os.uname().release, "CWD") if word in whole]


class Player:
    """Plays one stream to both and collects complaints."""

    def __init__(self, name, commands, place, how, loader, same, intended, judge):
        """`judge`: the original as it is, for what the two of `commands` have left."""
        self.name, self.how, self.loader, self.same = name, how, loader, same
        self.reveals, self.intended, self.judge = None, intended, judge
        self.directory = place / name
        self.sides = [Side(side, command, self.directory / side, how["arguments"], how["environment"])
                      for side, command in zip(("original", "ours"), commands)]
        self.original, self.ours = self.sides
        self.complaints, self.step, self.number, self.ended = [], "", 0, False
        # What differs by intention makes different records and files.
        self.compares_logs, self.compares_disk = (same or how["logs"]), (same or how["disk"])

    def complain(self, what):
        if what:
            self.complaints.append(f"step {self.number}: {self.step}\n" + "\n".join("    " + line for line in str(what).splitlines()))

    def play(self, steps):
        try:
            for self.number, self.step in enumerate(steps, 1):
                getattr(self, self.step.kind)(self.step)
            if not self.ended:
                self.number, self.step = "last", "end of input"
                self.finish()
        except Exception as hangup:  # also a step that cannot be taken after what ours did before it
            told = [side.server.errors()[-400:] for side in self.sides]
            self.complain(f"{hangup!r}\nstandard error of the original: {told[0]!r}\nof ours: {told[1]!r}")
        finally:
            for side in self.sides:
                side.server.kill()
        self.complain(self.reveals)  # once for each stream
        if not self.complaints:
            shutil.rmtree(self.directory, ignore_errors=True)
        return self.complaints

    def tested(self, step):
        """Whether our answer has a test of its own."""
        return step.why in self.intended

    # Each kind of step

    def content_for(self, side, value):
        if isinstance(value, At):
            return str(side.directory / value)
        if isinstance(value, dict):
            return {name: self.content_for(side, item) for name, item in value.items()}
        return [self.content_for(side, item) for item in value] if isinstance(value, list) else value

    def tell(self, step):
        for side in self.sides:
            if side.died:
                continue
            side.server.number += 1
            if step.kind == "call":
                made = {"i": side.server.number, "m": step.name, "a": self.content_for(side, step.content)}
                if step.name == "open" and isinstance(path := step.content.get("path"), (str, bytes)) and not isinstance(path, At):
                    spelt = path.encode(errors="surrogateescape") if isinstance(path, str) else path
                    real = os.path.realpath(os.path.join(os.fsencode(side.directory), spelt[3:] if spelt.startswith(b"/./") else spelt))
                    side.spelt = (side.mask(real), spelt)
                elif step.name == "open":
                    side.spelt = None
            else:
                made = self.content_for(side, step.content(side.server.number))
            side.server.send_raw(made if isinstance(made, bytes) else side.server._pack(made))

    @staticmethod
    def send(server, data):
        try:
            server.send_raw(data)
        except BrokenPipeError:
            pass

    def hear(self, step):
        """Reads and compares the next answers. With an intended difference the original may have died."""
        answers = []
        for side in self.sides:
            try:
                answers.append(None if side.died else Answer(side.server.read()))
            except bed.Hangup:
                if not step.test or side is self.ours and self.tested(step):
                    raise
                side.died = True
                answers.append(None)
        if None in answers and not self.tested(step):
            return self.complain(None if answers == [None, None] else f"ours: {answers[1]!r}, original: {answers[0]!r}")
        original, ours = answers
        if problems := well_formed(ours):
            self.complain(f"our answer {brief(ours)} is malformed: {', '.join(problems)}")
        if "W23" in self.intended and (told := reveals(ours, self.ours.command)):
            self.reveals = self.reveals or f"W23: {brief(ours)} tells the client {', '.join(told)}"
        if self.tested(step):
            self.complain(None if step.test(ours) else f"intended ({step.why}): {DIFFERENCES[step.why]}\nours:     {brief(ours)}\noriginal: {brief(original)}")
            return
        if original is None:
            return
        if not original.failed and not ours.failed and ours.form == original.form:
            if step.name == "open" or step.name.startswith("('open'"):
                fine = isinstance(ours.value, bytes) and len(ours.value) == 32 and ours.number == original.number
                return self.complain(None if fine else f"open returned {ours.value!r}")
            if step.name == "list":
                return self.complain(self.compare_lists(original, ours))
        if "negotiate" in step.name and not original.failed and not ours.failed and ours.form == original.form and isinstance(original.value, dict):
            version = ours.value.get(b"server_version") if isinstance(ours.value, dict) else None
            fine = isinstance(version, list) and len(version) > 3 and version[-1] < 0 and (self.same or version[:2] == [1, 4])
            return self.complain(None if fine else f"negotiate: {ours.value!r}")
        expected = [plain(original, self.original, self.intended)] + ([plain(original, self.original, self.intended, self.original.spelt)] if self.original.spelt else [])
        found = [plain(ours, self.ours, self.intended)] + ([plain(ours, self.ours, self.intended, self.ours.spelt)] if self.ours.spelt else [])
        if stumbled(original) and ours.failed and (ours.form, ours.number) == (original.form, original.number):
            return
        if not any(one == other for one in expected for other in found):
            self.complain(f"ours:     {brief(found[0])}\noriginal: {brief(expected[0])}")

    def compare_lists(self, original, ours):
        step = self.step.content if self.step.kind == "call" else {}
        if step.get("marker") or step.get("limit") is not None:  # which ones depends on the order
            return None if len(original.value) == len(ours.value) == len(set(ours.value)) else f"{len(ours.value)} instead of {len(original.value)} ids"
        return None if sorted(original.value) == sorted(ours.value) else f"{len(ours.value)} instead of {len(original.value)} ids, or others"

    def call(self, step):
        self.tell(step)
        self.hear(step)

    message = call

    def together(self, step):
        """From a thread: a server that waits until its answers are read must not stop us."""
        requests = []
        for side in self.sides:
            first = side.server.number
            requests.append(b"".join(side.server._pack({"i": number, "m": one.name, "a": self.content_for(side, one.content)})
                                     for number, one in enumerate(step.content, first + 1)))
            side.server.number += len(step.content)
        for side, data in zip(self.sides, requests):
            threading.Thread(target=self.send, args=(side.server, data), daemon=True).start()
        for self.step in step.content:
            self.hear(self.step)

    def pages(self, step):
        results = []
        for side in self.sides:
            found, sizes, marker = [], [], None
            whole = side.server
            while True:
                answer = self.ask(side, "list", limit=step.content, marker=marker)
                if answer.failed:
                    return self.complain(f"{side.name}: {answer!r}")
                sizes.append(len(answer.value))
                if not answer.value or len(sizes) > 10000:
                    break
                found += answer.value
                marker = found[-1]
            everything = self.ask(side, "list").value
            if found != everything:
                self.complain(f"{side.name}: the pages do not add up to the whole list, or differ in order")
            results.append((sorted(found), sizes))
        if results[0] != results[1]:
            self.complain(f"{len(results[1][0])} ids in pages of {results[1][1][:20]} instead of {len(results[0][0])} in {results[0][1][:20]}")

    @staticmethod
    def ask(side, method, **arguments):
        side.server.number += 1
        side.server.send_raw(side.server._pack({"i": side.server.number, "m": method, "a": arguments}))
        return Answer(side.server.read())

    def disk(self, step):
        for side in self.sides:
            step.content(side.directory)
        if self.tested(step) and not step.test(self.ours):
            self.complain(f"intended ({step.why}): {DIFFERENCES[step.why]}")

    def look(self, step):
        if self.compares_disk:
            self.complain(compare_files(self.sides, self.loader))

    def logged(self, step):
        """Our server has logged a record of this level since it started; no intended difference is compared otherwise."""
        found = step.content in self.ours.server.errors()
        if self.tested(step) and not step.test(found):
            self.complain(f"intended ({step.why}): {DIFFERENCES[step.why]}; there is no {step.content} record")

    def raw(self, step):
        for side in self.sides:
            side.server.send_raw(step.content)
        if step.more != "then EOF":
            for side in self.sides:
                try:  # the answers to what was good of it, and its end without our closing anything
                    while True:
                        side.last = Answer(side.server.read(20))
                        side.marker += 1
                except bed.Hangup as hangup:
                    if "hung up" not in str(hangup):
                        self.complain(f"{side.name}: {hangup}")
            if self.original.marker != self.ours.marker:
                self.complain(f"{self.ours.marker} answers instead of {self.original.marker}")
        self.finish()

    def signal(self, step):
        for side in self.sides:
            side.server.process.send_signal(step.content)
        for side in self.sides:
            try:
                side.server.process.wait(10)
            except subprocess.TimeoutExpired:
                self.complain(f"{side.name} goes on")
        self.finish()

    def interrupted(self, step):
        """A signal in the middle of a request."""
        self.tell(step.content)
        time.sleep(0.7)
        codes = []
        for side in [self.ours] if self.tested(step) else self.sides:
            side.server.process.send_signal(signal.SIGTERM)
            codes.append("serves on" if bed.wait_until(lambda: side.server.process.poll() is not None, 4, 0.05) is None else side.server.process.returncode)
        if self.tested(step):
            self.complain(None if step.test(codes[0]) else f"intended ({step.why}): {DIFFERENCES[step.why]}; exit code {codes[0]}")
        else:
            self.complain(None if codes[0] == codes[1] else f"{codes[1]} instead of {codes[0]}")
        self.ended = True

    def sound(self, step):
        """The original opens what ours has left, finds no fault, and counts as many objects."""
        for side in self.sides:
            if not side.server.process.stdin.closed:
                side.stop()
        self.ended = True
        if self.same:
            return
        server = Server(self.judge, "--info", cwd=self.ours.directory, environment={"BORG_HOST_ID": HOST_ID, "BORG_BASE_DIR": str(self.directory / "home"), "BORG_SELFTEST": "disabled"})
        self.ours.server = server
        self.ask(self.ours, "negotiate", client_data={"client_version": [1, 4, 5, -1]})
        answers = [self.ask(self.ours, "open", path="repo", lock_wait=1, exclusive=True), self.ask(self.ours, "check"), self.ask(self.ours, "__len__")]
        if any(answer.failed for answer in answers) or answers[1].value is not True or answers[2].value != step.content:
            self.complain(f"the original says of our repository: {answers}\n{server.errors()[-600:]}")

    def restart(self, step):
        if not self.ended:
            self.finish(step)
        self.ended = False
        for side in self.sides:
            side.start(step.content, step.more)

    def end(self, step):
        self.finish(step)

    def finish(self, step=None):
        """Ends both servers and compares everything that stays: exit codes, standard output, records, files."""
        if self.ended and step is None:
            return
        self.ended = True
        codes = [side.stop() for side in self.sides]
        for complaint in self.ours.complaints:
            self.complain(complaint)
        self.ours.complaints = []
        if step is not None and self.tested(step):
            if not step.test(self.ours):
                self.complain(f"intended ({step.why}): {DIFFERENCES[step.why]}; on standard output: {self.ours.trailing[:200]!r}, on standard error: {self.ours.said[:300]!r}")
        else:
            if codes[0] != codes[1] and not self.original.died:
                self.complain(f"exit code {codes[1]}, the original's {codes[0]}; {self.ours.said[-300:]!r}")
            # W1 is the only text that the original writes to standard output.
            if self.ours.trailing != self.original.trailing and (self.ours.trailing or "W1" not in self.intended):
                self.complain(f"on standard output: {self.ours.trailing[:200]!r} instead of {self.original.trailing[:200]!r}")
        if "Traceback" in self.ours.said and "W23" in self.intended:
            self.complain(f"W23: a traceback on standard error: {self.ours.said[-300:]!r}")
        if self.compares_logs:
            said = [comparable(side.records, exact="W17" not in self.intended) for side in self.sides]
            if said[0] != said[1]:
                self.complain("log records:\n" + difference_of_lists(*said))
            if self.original.progress != self.ours.progress:
                self.complain("progress records:\n" + "\n".join([f"missing: {one}" for one in list(self.original.progress - self.ours.progress)[:5]] +
                                                               [f"only ours: {one}" for one in list(self.ours.progress - self.original.progress)[:5]]))
        for side in self.sides:
            side.records, side.progress = [], collections.Counter()
        if self.compares_disk:
            self.complain(compare_files(self.sides, self.loader))


def comparable(records, *, exact):
    """Records without what is not compared: the order in which objects are named, as it is a hash table's, and, unless
    `exact`, what exactly is wrong with a file that is recovered."""
    grouped = []
    for _, group in itertools.groupby(records, lambda record: record[3].startswith("ID: ")):
        group = list(group)
        grouped += sorted(group, key=str) if group[0][3].startswith("ID: ") else group
    if exact:
        return grouped
    return [(*record[:3], re.sub(r"(missing or corrupted, trying to recover(?: from)?:).*", r"\1 why", record[3]), *record[4:]) for record in grouped]


def difference_of_lists(expected, found):
    import difflib

    lines = difflib.unified_diff([str(one) for one in expected], [str(one) for one in found], "original", "ours", lineterm="", n=1)
    return "\n".join(list(lines)[2:16])


def main():
    global VERSION
    parser = bed.parser(__doc__, limit=900)
    parser.add_argument("--rounds", type=int, default=8, help="random streams (%(default)s)")
    parser.add_argument("--length", type=int, default=200, help="requests in a random stream (%(default)s)")
    parser.add_argument("--only", help="only streams in whose name this regular expression is found")
    parser.add_argument("--against", default=VERSION, choices=VERSIONS, help="the version of the original")
    parser.add_argument("--same", action="store_true", help="no difference is intended: compare the original with itself")
    parser.add_argument("--without", default="", metavar="W1,…", help="these differences are not intended, the others are")
    parser.add_argument("--differences", action="store_true", help="print the intended differences and end")
    if "--differences" in sys.argv:
        used = collections.defaultdict(list)
        for name, (make, _) in STREAMS.items():
            for step in make():
                if step.why and name not in used[step.why]:
                    used[step.why].append(name)
        for why, text in DIFFERENCES.items():
            print(f"{why}: {text} ({', '.join(used[why]) or ('a patch' if why in improved1.PATCHES else 'all errors')})")
        return 0
    if "--original" not in " ".join(sys.argv):
        against = next((sys.argv[n + 1] for n, word in enumerate(sys.argv[:-1]) if word == "--against"), VERSION)
        sys.argv += ["--original", str(bed.client_path(against))]
    options = bed.parse(parser)
    VERSION = options.against
    place, report, loader = bed.Place("differential1", options.keep), bed.Report(), Loader(VERSION)
    place.undo(loader.close)
    intended = set() if options.same else set(DIFFERENCES) - set(options.without.split(","))
    is_improved = VERSION == improved1.VERSION and intended & set(improved1.PATCHES)
    commands = (str(improved1.program(place, intended)) if is_improved else options.original, options.server)
    streams = dict(STREAMS)
    for number in range(options.rounds):
        gathered = number % 2 == 1
        name = f"random_{options.seed + number}{'_pipelined' if gathered else ''}"
        make = lambda seed=options.seed + number, gathered=gathered: random_stream(seed, options.length, gathered=gathered)
        streams[name] = (make, {"logs": True, "disk": True, "arguments": (), "environment": {}})
    chosen = [name for name in streams if not options.only or re.search(options.only, name)]

    def play(name):
        make, how = streams[name]
        return Player(name, commands, place, how, loader, options.same, intended, options.original).play(make())

    # Most of the time goes into starting the original's interpreter: two streams at once.
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for name, complaints in zip(chosen, pool.map(play, chosen)):
            report.check(name, not complaints, "\n".join(complaints[:10]) + (f"\n… and {len(complaints) - 10} more" if len(complaints) > 10 else ""))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
