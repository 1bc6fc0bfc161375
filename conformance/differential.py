#!/usr/bin/env python3
"""Plays the same requests to the original's server process and to ours, and compares whatever can be seen.

Each stream of requests starts both servers on pipes, each with an empty directory of its own as working directory.
Compared are: every answer (the value; or the exception's class and those of its arguments that clients read), the log
records of the stream as a multiset (the original holds those of `check` back until it ends, we do not), what is on disk
afterwards byte for byte with file modes, and how the process ends. Streams are tables of steps below, and random ones
(`--rounds`, `--seed`). Random streams are also played pipelined: all requests first, then all answers.

Masked: the repository's random id, names and times of locks. Ignored: empty directories `*.tmp`, where we stage.

Ours publishes objects in batches: before a step that looks at the disk, ours is asked to `list`, which publishes. Ours
drops the cached chunk indexes before the first deletion of an object, so that they may be missing on its side; it sends
progress records, which the original does not; and it never makes the directories of objects that were deleted again
before they were published, so that empty directories are not compared.

Intended differences stand in the streams themselves, as `differs(step, "why", test of our answer)`: there the
original's answer is not compared and ours must pass the test. `--differences` prints them as a table. Three are general:

* Where the original answers with a Python exception that no client can rebuild (TypeError, AttributeError, …), ours
  has to answer with an error too, of any class.
* Before it deletes the first object, ours drops the cached chunk indexes, which may name it; until the next full check
  their absence is no difference. Nor are directories without files.
* Text meant for people and naming places (LockTimeout, PathNotAllowed, AlreadyExists …) is not compared.
"""

import collections
import json
import os
import random
import shutil
import struct
import sys
import threading
import time
from dataclasses import dataclass, replace

sys.dont_write_bytecode = True
import bed

CLIENT_VERSION = {"2.0.0b16": [2, 0, 0, -3, 16], "2.0.0b18": [2, 0, 0, -3, 18], "2.0.0b21": [2, 0, 0, -3, 21]}
MAX_DATA_SIZE = 20971479

# Which arguments of an exception the clients read; all others are free.
ARGUMENTS_READ = {"Error": [0], "IntegrityError": [0], "InvalidRepositoryConfig": [1], "ObjectNotFound": [0],
                  "StoreObjectNotFound": [0], "InvalidRPCMethod": [0], "NotLocked": [], "NoManifestError": [],
                  "DoesNotExist": [], "AlreadyExists": [], "CheckNeeded": [], "InvalidRepository": [], "LockTimeout": [],
                  "PathNotAllowed": [], "PermissionDenied": [], "ValueError": [], "ZeroDivisionError": []}
# Exceptions by which the original stumbled rather than answered: any error will do.
STUMBLED = {"TypeError", "KeyError", "AttributeError", "AssertionError", "BackendMustBeOpen", "JSONDecodeError",
            "FileExistsError", "NotADirectoryError", "IsADirectoryError", "InvalidPlaceholder", "UnicodeEncodeError",
            "FileNotFoundError", "OSError", "BackendAlreadyExists", "BackendDoesNotExist", "OverflowError"}


# --- steps ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    kind: str  # call, raw, disk, restart, end
    method: str = ""
    arguments: object = None
    envelope: object = None
    why: str = ""  # an intended difference
    test: object = None  # of our answer, in place of the comparison
    lasting: bool = False  # the two directories may differ from here on

    def __str__(self):
        if self.kind != "call":
            return self.kind + (f" {self.method}" if self.method else "")
        if not isinstance(self.arguments, dict):
            return f"{self.method} with arguments {self.arguments!r}"
        return f"{self.method}({', '.join(f'{k}={brief(v)}' for k, v in self.arguments.items())})"


def call(method, **arguments):
    return Step("call", method, arguments)


def odd(method, arguments, **envelope):
    """A request whose argument map or envelope is not what clients send."""
    return Step("call", method, arguments, envelope)


def raw(data, name=""):
    """Bytes instead of a request; the process is expected to end, its exit code is compared."""
    return Step("raw", name, data)


def disk(change, name=""):
    """A change made behind the servers' backs: `change(directory)`."""
    return Step("disk", name or change.__name__, change)


def differs(step, why, test, lasting=False):
    return replace(step, why=why, test=test, lasting=lasting)


def restart(*arguments):
    """Close the input, compare the exit code, start again in the same directory with these options."""
    return Step("restart", " ".join(arguments), list(arguments))


RESTART = restart()
END = Step("end")


def fails(*classes):
    return lambda answer: answer.failed and (not classes or answer.error in classes)


def succeeds(answer):
    return not answer.failed


def returns(value):
    return lambda answer: not answer.failed and answer.value == value


def brief(value):
    text = repr(value)
    return text if len(text) < 90 else f"{text[:60]}… ({len(value) if hasattr(value, '__len__') else ''})"


def opening(path="repo", create=False, **more):
    return call("open", **{"path": path, "create": create, "lock_wait": 1.0, "lock": True, "exclusive": True, "v1_or_v2": False, **more})


def hello(version=None):
    return call("negotiate", client_data={"client_version": version or CLIENT_VERSION[VERSION]})


def created(*steps):
    """A stream that works in a new repository and closes it."""
    return [hello(), opening(create=True), call("info"), *steps, call("close")]


VERSION = bed.ORIGINAL_VERSION


# --- objects ----------------------------------------------------------------------------------------------------------

P1, P2, P3, P4, P5 = (11400714785074694791, 14029467366897019727, 1609587929392839161, 9650029242287828579, 2870177450012600261)
MASK = (1 << 64) - 1


def xxh64(data, seed=0):
    """XXH64, the checksum in object headers; written out because the standard library has none."""

    def turn(value, bits):
        return ((value << bits) | (value >> (64 - bits))) & MASK

    def mix(accumulator, lane):
        return turn((accumulator + lane * P2) & MASK, 31) * P1 & MASK

    position, length = 0, len(data)
    if length >= 32:
        lanes = [(seed + P1 + P2) & MASK, (seed + P2) & MASK, seed, (seed - P1) & MASK]
        while position + 32 <= length:
            lanes = [mix(lane, word) for lane, word in zip(lanes, struct.unpack_from("<4Q", data, position))]
            position += 32
        result = sum(turn(lane, bits) for lane, bits in zip(lanes, (1, 7, 12, 18))) & MASK
        for lane in lanes:
            result = ((result ^ mix(0, lane)) * P1 + P4) & MASK
    else:
        result = (seed + P5) & MASK
    result = (result + length) & MASK
    while position + 8 <= length:
        result = (turn(result ^ mix(0, struct.unpack_from("<Q", data, position)[0]), 27) * P1 + P4) & MASK
        position += 8
    if position + 4 <= length:
        result = (turn(result ^ struct.unpack_from("<I", data, position)[0] * P1 & MASK, 23) * P2 + P3) & MASK
        position += 4
    for byte in data[position:]:
        result = turn(result ^ byte * P5 & MASK, 11) * P1 & MASK
    result = (result ^ result >> 33) * P2 & MASK
    result = (result ^ result >> 29) * P3 & MASK
    return result ^ result >> 32


assert xxh64(b"abc") == 0x44BC2CF5AD770999 and xxh64(b"") == 0xEF46DB3751D8E999


def repo_object(meta=b"meta", data=b"data"):
    return struct.pack("<II", len(meta), len(data)) + struct.pack(">QQ", xxh64(meta), xxh64(data)) + meta + data


def identity(number):
    return number.to_bytes(2, "big") * 16


def object_path(key):
    name = key.hex()
    return f"repo/data/{name[:2]}/{name[2:4]}/{name}"


def put(number, data=None):
    return call("put", id=identity(number), data=repo_object(data=b"object %d" % number) if data is None else data)


def write_file(path, content):
    def change(directory):
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(content)
        (directory / path).chmod(0o600)

    return disk(change, f"write {path}")


def remove(path):
    def change(directory):
        target = directory / path
        shutil.rmtree(target) if target.is_dir() else target.unlink()

    return disk(change, f"remove {path}")


# --- the streams ------------------------------------------------------------------------------------------------------

STREAMS = {}


def stream(function):
    STREAMS[function.__name__] = function
    return function


METHODS = ("__len__ check delete destroy get list info put save_key load_key break_lock inject_exception get_manifest put_manifest "
           "store_list store_load store_store store_delete store_move").split()
NEVER = "commit rollback async_response migrate_lock serve __init__ __class__ _get get_many preload scan flags".split() + ["", "GET", "nö"]


@stream
def negotiation():
    yield hello()
    yield hello([2, 0, 0, -3, 14])
    yield hello([2, 1, 0, -1])
    yield call("negotiate", client_data={"client_version": CLIENT_VERSION[VERSION], "more": 1})
    yield call("negotiate", client_data={})
    yield call("negotiate", client_data={"client_version": CLIENT_VERSION[VERSION]}, unknown=[1, {"a": None}])
    yield call("negotiate")
    yield call("close")
    yield call("close", unknown=1)
    for method in METHODS + NEVER:
        yield odd(method, {})
    yield END


@stream
def no_negotiation():
    yield opening(create=True)
    yield call("store_load", name="archives/00")
    yield call("close")
    yield END


@stream
def envelopes():
    yield odd("negotiate", {"client_data": {"client_version": CLIENT_VERSION[VERSION]}}, i=None)
    for number in (0, -1, 2**31, 2**63, -(2**63), "one", True, 1.5):
        yield odd("negotiate", {"client_data": {"client_version": CLIENT_VERSION[VERSION]}}, i=number)
    yield odd("close", {}, extra="ignored", i=5)
    yield odd("close", [])
    yield odd("open", ["path"])
    yield odd("open", {})
    yield opening(create=True, surplus=b"\xff" * 10, more={"a": [1, 2, {"b": None}]})
    yield call("get", id=identity(1), raise_missing=False, wait=True, nonsense=3.5)
    yield call("close")
    yield END


@stream
def methods_that_never_exist():
    yield from created(*[odd(method, {}) for method in NEVER])


@stream
def arguments_of_wrong_type():
    key = identity(1)
    yield from created(
        odd("get", {}), odd("put", {"id": key}), odd("put", {"data": b"x"}), odd("delete", {}), odd("store_list", {}),
        odd("store_load", {}), odd("store_store", {"name": "cache/x"}), odd("store_store", {"value": b"x"}), odd("store_delete", {}),
        odd("store_move", {}), odd("save_key", {}), odd("put_manifest", {}), odd("inject_exception", {}), odd("negotiate", {}),
        call("get", id=None), call("get", id=5), call("get", id=[1]),
        differs(call("get", id=key.hex()), "an id that is text is refused, the original looks for it", fails()),
        call("put", id=key, data=5),
        call("put", id=None, data=b"x"), call("put", id=key, data=None), call("delete", id=7), call("store_load", name=5),
        call("store_load", name=b"cache/x"), call("store_store", name=None, value=b"x"), call("store_list", name=5), call("store_list", name=None),
        call("store_delete", name=[]),
        differs(call("list", limit="many"), "a limit has to be an int; the original looks at it only while there are objects", fails()),
        differs(call("list", limit=1.5, marker=None), "a limit has to be an int; the original looks at it only while there are objects", fails()),
        call("get", id=key, raise_missing=False), call("info"))


@stream
def create_and_open():
    yield hello()
    yield opening()  # does not exist
    yield call("close")
    yield opening("new/parents/repo", create=True)
    yield call("info")
    yield call("close")
    yield opening("new/parents/repo", create=True)  # exists already
    yield call("close")
    yield opening("new/parents/repo")
    yield call("close")
    yield opening("./new/../new//parents/repo")
    yield call("info", unknown=1)
    yield call("close")
    yield opening(b"new/parents/repo")
    yield call("close")
    yield opening("new/parents")  # a directory, but no repository
    yield call("close")
    yield disk(lambda d: (d / "empty").mkdir(), "mkdir empty")
    yield opening("empty")
    yield call("close")
    yield opening("empty", create=True)
    yield call("close")
    yield disk(lambda d: (d / "hidden/.x").mkdir(parents=True), "mkdir hidden/.x")
    yield opening("hidden", create=True)
    yield call("close")
    yield write_file("file", b"x")
    yield opening("file")
    yield call("close")
    yield opening("file", create=True)
    yield call("close")
    yield opening("file/below", create=True)
    yield call("close")
    yield opening("~/tilde", create=True)
    yield call("close")
    yield opening("ünïcödé/日本 repo", create=True)
    yield call("close")
    yield opening("raw-\udcff-byte", create=True)
    yield call("close")
    yield disk(lambda d: (d / "link").symlink_to("new/parents/repo"), "symlink to the repository")
    yield opening("link")
    yield call("put", id=identity(1), data=repo_object())
    yield call("close")
    yield disk(lambda d: (d / "dangling").symlink_to("created/through"), "dangling symlink")
    yield opening("dangling", create=True)
    yield call("close")
    yield END


@stream
def open_arguments():
    yield from created()
    yield opening(lock_wait=None)
    yield call("close")
    yield differs(opening(lock_wait=0), "lock_wait=0 is one attempt; the original never tries", succeeds)
    yield call("close")
    yield opening(lock_wait=1)
    yield call("close")
    yield opening(exclusive=None)
    yield call("close")
    yield opening(exclusive=False)
    yield call("close")
    yield opening(lock=False)
    yield call("put", id=identity(1), data=repo_object())  # nothing enforces a lock
    yield call("close")
    yield call("open", path="repo", lock_wait=1)
    yield call("close")
    yield call("open", path="repo")  # lock_wait is nil
    yield call("close")
    yield opening(path=5)
    yield call("close")
    yield opening(path=None)
    yield call("close")
    yield END


@stream
def legacy_repository():
    yield hello()
    yield opening(v1_or_v2=True)
    yield replace(END, test=lambda code: code in (0, 2), why="the original ends with 2 after a failed open")


@stream
def placeholder_in_path():
    yield hello()
    why = "braces in a path are ordinary characters, as for 2.0.0b21; 2.0.0b18 fails for its display name"
    yield differs(opening("{now", create=True), why, succeeds, lasting=True)
    yield differs(call("close"), why, succeeds)
    yield END


@stream
def damaged_configuration():
    yield from created()
    yield from damage("readme", [b"This is something else\n", b""])
    yield from damage("version", [b"2", b"4", b" 3\n", b"x", b"", b"3.0"])
    yield from damage("id", [b"A" * 64, b"a" * 63, b"a" * 65, b"a" * 64 + b"\n", b"g" * 64, b""])
    for name in ("version", "id", "readme"):
        yield remove(f"repo/config/{name}")
        yield opening()
        yield call("close")
    yield END


def damage(name, contents):
    good = {}
    path = f"repo/config/{name}"
    yield disk(lambda d: good.__setitem__(d, (d / path).read_bytes()), f"remember {path}")
    for content in contents:
        yield write_file(path, content)
        yield opening()
        yield call("close")
    yield disk(lambda d: (d / path).write_bytes(good[d]), f"restore {path}")


@stream
def second_open():
    yield hello()
    yield opening("a", create=True)
    why = "a second open closes the first repository; the original leaves its lock behind"
    yield differs(opening("b", create=True), why, succeeds, lasting=True)
    yield call("put", id=identity(1), data=repo_object())
    yield differs(call("close"), why, succeeds)
    yield differs(disk(lambda d: None, "look"), why, lambda d: not bed.lock_files(d / "a") and not bed.lock_files(d / "b"))
    yield END


@stream
def after_close():
    yield from created()
    for method, arguments in {"info": {}, "get": {"id": identity(1)}, "put": {"id": identity(1), "data": b""}, "list": {}, "check": {},
                              "store_list": {"name": "archives"}, "get_manifest": {}, "break_lock": {}, "destroy": {}}.items():
        yield call(method, **arguments)
    yield call("close")
    yield opening("missing")
    for method, arguments in {"info": {}, "get": {"id": identity(1)}, "list": {}, "store_load": {"name": "config/id"}}.items():
        yield call(method, **arguments)
    yield call("close")
    yield opening()
    yield put(1)
    yield call("close")
    yield END


@stream
def objects():
    key = identity(1)
    yield from created(
        call("get", id=key), call("get", id=key, raise_missing=False), call("get", id=key, read_data=False, raise_missing=False),
        call("get", id=key, read_data=False), call("delete", id=key), call("list"),
        put(1), call("get", id=key), call("get", id=key, read_data=False), call("get", id=key, raise_missing=False), put(1, b"overwritten"),
        call("get", id=key), call("put", id=key, data=repo_object(b"m" * 1000, b"d" * 100000), wait=False), call("get", id=key),
        call("get", id=key, read_data=False), call("delete", id=key, wait=True), call("delete", id=key), call("get", id=key),
        call("put", id=b"\0" * 32, data=repo_object(b"", b"")), call("get", id=b"\0" * 32), call("get", id=b"\0" * 32, read_data=False),
        call("put", id=b"\xff" * 32, data=b""), call("get", id=b"\xff" * 32), call("get", id=b"\xff" * 32, read_data=False), call("list"))


@stream
def objects_with_short_headers():
    for number, data in enumerate([b"", b"x", b"x" * 23, repo_object(b"", b"")[:24], struct.pack("<II", 10, 0) + bytes(16) + b"only 8 b",
                                   struct.pack("<II", 2**32 - 1, 2**32 - 1) + bytes(16) + b"tail", bytes(24)]):
        STREAM_DATA.append((number, data))
    yield from created(*[step for number, data in STREAM_DATA[-7:] for step in (
        put(number, data), call("get", id=identity(number), read_data=False), call("get", id=identity(number)))], call("list"))


STREAM_DATA = []


@stream
def largest_objects():
    yield from created(put(1, bytes(MAX_DATA_SIZE)), call("get", id=identity(1)), put(2, bytes(MAX_DATA_SIZE + 1)), call("list"),
                       put(1, bytes(MAX_DATA_SIZE + 1)), call("list"), call("store_store", name="cache/large", value=b"c" * (MAX_DATA_SIZE + 5)),
                       call("store_load", name="cache/large"), call("store_list", name="cache"))


@stream
def ids_of_wrong_length():
    why = "an id must have 32 bytes; the original stores others and then cannot check or list"
    yield from created(*[
        differs(call(method, id=key, **more), why, fails(), lasting=True)
        for key in (b"", b"\1", b"\1\2\3", b"\1" * 31, b"\1" * 33)
        for method, more in (("put", {"data": b"x"}), ("get", {}), ("delete", {}))
    ], differs(call("list"), why, returns([])), differs(call("check"), why, returns(True)))


@stream
def listing():
    keys = [identity(number) for number in range(1, 41)]
    steps = [put(number) for number in range(1, 41)]
    steps += [call("list"), call("list", limit=0), call("list", limit=None, marker=None), call("list", limit=10),
              call("list", limit=10, marker=keys[9]), call("list", limit=10, marker=keys[29]), call("list", limit=10, marker=keys[34]),
              call("list", limit=10, marker=keys[39]), call("list", marker=keys[20]), call("list", limit=1), call("list", limit=100000)]
    why = "an unknown marker continues with the next greater id; the original ends the listing silently"
    pairs = [[key, len(repo_object(data=b"object %d" % number))] for number, key in enumerate(keys, 1)]
    steps += [differs(call("list", limit=3, marker=identity(0)), why, returns(pairs[:3])),
              differs(call("list", limit=3, marker=keys[4] [:-1] + b"\xff"), why, returns(pairs[5:8])),
              differs(call("list", marker=b"\xff" * 32), why, returns([]))]
    steps += [call("delete", id=keys[5]), call("list", limit=3, marker=keys[4]),
              differs(call("list", limit=3, marker=keys[5]), why, returns(pairs[6:9]))]
    yield from created(*steps)


@stream
def listing_foreign_files():
    yield from created(put(1), put(2), write_file("repo/data/00/01/tmpabcdefgh.tmp", b"leftover"), call("list"),
                       write_file(object_path(identity(3)) + ".del", b"soft-deleted"), call("list"),
                       call("store_list", name="data"), call("store_list", name="data", deleted=True),
                       remove("repo/data/00/01/tmpabcdefgh.tmp"))


@stream
def manifest_and_key():
    yield from created(
        call("get_manifest"), call("put_manifest", data=b"manifest"), call("get_manifest"), call("put_manifest", data=b""), call("get_manifest"),
        call("load_key"), call("save_key", keydata=b""), call("load_key"), call("save_key", keydata=b"key \xff\0 text"), call("load_key"),
        call("store_load", name="keys/repokey"), call("store_load", name="config/manifest"), call("store_list", name="keys"),
        call("store_delete", name="config/manifest"), call("get_manifest"))


NAMESPACES = ("archives", "cache", "config", "keys", "locks", "data")


@stream
def store_objects():
    steps = []
    for namespace in NAMESPACES:
        name = f"{namespace}/" + "ab" * 32
        steps += [call("store_load", name=name), call("store_delete", name=name), call("store_delete", name=name, deleted=True),
                  call("store_store", name=name, value=b"value of " + namespace.encode()), call("store_load", name=name),
                  call("store_load", name=name, deleted=True, size=3, offset=1), call("store_store", name=name, value=b""), call("store_load", name=name)]
        if namespace != "locks":  # listing locks as ours would need one to be one
            steps += [call("store_list", name=namespace), call("store_list", name=namespace, deleted=True)]
        steps += [call("store_delete", name=name), call("store_load", name=name), call("store_delete", name=name)]
    yield from created(*steps)


@stream
def store_lists():
    yield from created(
        call("store_list", name="archives"), call("store_list", name="nonexistent"), call("store_list", name="nonexistent", deleted=True),
        *[call("store_store", name=f"archives/{number:02}" + "cd" * 31, value=b"") for number in (3, 1, 2)],
        call("store_store", name="config/space-reserve.0", value=b"x" * 1000), call("store_store", name="cache/chunks.0000000000000001", value=b"x"),
        put(1), call("store_list", name="archives"), call("store_list", name="archives", deleted=False), call("store_list", name="archives", deleted=True),
        call("store_list", name="cache"), call("store_list", name="data"), call("store_list", name="data/00"), call("store_list", name="data/00/01"),
        call("store_list", name="config", unknown=1), call("store_list", name="config/id"), call("store_list", name="archives/" + "ff" * 32),
        disk(lambda d: os.symlink("version", d / "repo/config/linked"), "symlink in config"), call("store_list", name="config"), call("store_load", name="config/linked"),
        disk(lambda d: os.symlink("nothing", d / "repo/config/dangling"), "dangling symlink in config"), call("store_list", name="config"),
        call("store_load", name="config/dangling"))


@stream
def soft_deletion():
    name, other = "archives/" + "ab" * 32, "archives/" + "cd" * 32
    yield from created(
        call("store_store", name=name, value=b"one"), call("store_move", name=name, delete=True), call("store_list", name="archives"),
        call("store_list", name="archives", deleted=True), call("store_load", name=name), call("store_move", name=name, delete=True),
        call("store_move", name=name, undelete=True), call("store_load", name=name), call("store_move", name=name, undelete=True),
        call("store_list", name="archives"), call("store_move", name=name, delete=True), call("store_store", name=name, value=b"two"),
        call("store_list", name="archives"), call("store_list", name="archives", deleted=True), call("store_move", name=name, undelete=True),
        call("store_load", name=name), call("store_move", name=name, delete=True), call("store_delete", name=name),
        call("store_delete", name=name, deleted=True), call("store_delete", name=name, deleted=True), call("store_list", name="archives", deleted=True),
        call("store_store", name=name, value=b"three"), call("store_move", name=name, delete=True),
        call("store_move", name=name, new_name=other, deleted=True), call("store_list", name="archives", deleted=True),
        call("store_move", name=other, undelete=True, new_name=None), call("store_list", name="archives"),
        put(5), call("store_move", name="data/" + identity(5).hex(), delete=True), call("list"), call("get", id=identity(5)), call("check"),
        call("store_move", name="data/" + identity(5).hex(), undelete=True), call("list"), call("get", id=identity(5)))


@stream
def moves():
    one, two = "archives/" + "ab" * 32, "archives/" + "cd" * 32
    yield from created(
        call("store_move", name=one), call("store_move", name=one, new_name=two), call("store_move", name=one, delete=True),
        call("store_move", name=one, undelete=True), call("store_store", name=one, value=b"1"), call("store_move", name=one),
        call("store_move", name=one, new_name=two), call("store_list", name="archives"), call("store_load", name=two),
        call("store_store", name=one, value=b"2"), call("store_move", name=one, new_name=two), call("store_load", name=two),
        call("store_move", name=two, new_name=two), call("store_load", name=two), call("store_move", name=two, new_name="keys/moved"),
        call("store_load", name="keys/moved"), call("store_move", name="keys/moved", new_name="data/" + identity(9).hex()), call("list"),
        call("get", id=identity(9)), call("store_move", name="data/" + identity(9).hex(), new_name="data/" + identity(300).hex()), call("list"),
        call("store_move", name="data/" + identity(300).hex(), new_name="elsewhere/x"), call("store_move", name="elsewhere/x", new_name="cache/x"),
        call("store_move", name="data/" + identity(300).hex(), new_name="cache/../x"), call("store_move", name="config/id/", new_name="cache/x"),
        call("list"))


BAD_NAMES = ["", "/", ".", "..", "x", "config", "data", "Config/id", "config/ID", "config/a b", "config/a\\b", "config/../id", "config/a..b", "config/ä",
             "/config/id", "config/id/", "config/" + "x" * 94, "unknown/x", "locks", "data/" + "AB" * 32, "config/\udcff"]
CONTROL_NAMES = ["config/a\nb", "config/a\0b", "config/\x1b[31m", "config//x", "./config/x", "config/./x", "config/x/./y", "config/\x7f"]


@stream
def bad_names():
    steps = []
    for name in BAD_NAMES:
        steps += [call("store_load", name=name), call("store_store", name=name, value=b"x"), call("store_delete", name=name),
                  call("store_move", name=name, delete=True), call("store_move", name="config/version", new_name=name),
                  call("store_store", name="config/version", value=b"3")]
    for name in ("..", "config/..", "config/", "/", "/etc", "Config", "a b", "a\\b", "ä", "x" * 101):
        steps.append(call("store_list", name=name))
    yield from created(*steps)


@stream
def listing_everything():
    yield from created(put(1), call("store_store", name="archives/" + "ab" * 32, value=b""))
    yield opening(lock=False)  # or the own lock, whose name is random, would be listed too
    yield call("store_list", name="")
    yield call("store_list", name=".")
    yield call("store_list", name="", deleted=True)
    yield call("close")
    yield END


@stream
def names_of_full_length():
    name = "config/" + "x" * 93  # 100 characters; soft-deleted it would be 104
    yield from created(call("store_store", name=name, value=b"x"), call("store_load", name=name), call("store_move", name=name, delete=True),
                       call("store_list", name="config"), call("store_delete", name=name))


@stream
def names_with_control_characters():
    why = "names with control characters, `//` and `./` are refused; the original accepts them"
    # `./` names no namespace, which is found out first.
    yield from created(*[differs(call(method, name=name, **more), why, fails("ValueError", "KeyError"), lasting=True)
                         for name in CONTROL_NAMES
                         for method, more in (("store_store", {"value": b"x"}), ("store_load", {}), ("store_delete", {}), ("store_move", {"delete": True}))])


@stream
def names_for_temporary_files():
    why = "names that end in .tmp are refused; the original (before 2.0.0b21) stores and never lists them"
    hidden = "names that end in .hid are refused, as by 2.0.0b21; the original before it takes them"
    yield from created(differs(call("store_store", name="config/x.hid", value=b"x"), hidden, fails("ValueError"), lasting=True),
                       differs(call("store_store", name="config/x.tmp", value=b"x"), why, fails("ValueError"), lasting=True),
                       differs(call("store_list", name="config"), "names that end in .tmp are refused; the original (before 2.0.0b21) stores and never lists them", succeeds))


@stream
def names_of_other_depths():
    yield from created(call("store_store", name="config/deep/er", value=b"x"), call("store_load", name="config/deep/er"),
                       call("store_list", name="config"), call("store_list", name="config/deep"), call("store_load", name="config/deep"),
                       call("store_delete", name="config/deep"), call("store_store", name="config/deep", value=b"x"),
                       call("store_store", name="config/id/below", value=b"x"), call("store_load", name="config/id/below"),
                       call("store_delete", name="config/deep/er"), call("store_list", name="config/deep"))


CORRUPTIONS = {
    "too small": lambda good: good[:20], "empty": lambda good: b"", "only a header": lambda good: good[:24], "meta cut": lambda good: good[:26],
    "meta flipped": lambda good: good[:25] + bytes([good[25] ^ 1]) + good[26:], "data cut": lambda good: good[:-1],
    "data flipped": lambda good: good[:-1] + bytes([good[-1] ^ 128]), "both flipped": lambda good: good[:24] + bytes(len(good) - 24),
    "trailing bytes": lambda good: good + b"more", "checksum flipped": lambda good: good[:8] + bytes([good[8] ^ 1]) + good[9:],
    "sizes huge": lambda good: b"\xff" * 8 + good[8:],
}


def corrupt(number, kind):
    def change(directory):
        path = directory / object_path(identity(number))
        path.write_bytes(CORRUPTIONS[kind](path.read_bytes()))

    return disk(change, f"corrupt object {number}: {kind}")


@stream
def check_clean():
    yield from created(call("check"), call("check", repair=True), put(1), put(7), call("check"), call("store_list", name="cache"),
                       put(2), call("check", repair=True), call("store_list", name="cache"), call("check", repair=False, max_duration=0),
                       call("check", repair=True, max_duration=5), call("check", repair=False, max_duration=3600), call("store_list", name="cache"))


@stream
def check_without_data():
    yield from created(call("check"), call("store_list", name="cache"), put(1), call("delete", id=identity(1)), call("check"), call("store_list", name="cache"))


@stream
def check_corrupted():
    numbers = list(range(10, 10 + len(CORRUPTIONS)))
    yield from created(*[put(number) for number in [1, *numbers, 99]], *[corrupt(number, kind) for number, kind in zip(numbers, CORRUPTIONS)],
                       call("check"), call("list"), call("check", max_duration=3600), call("check", repair=True), call("list"), call("check"))


@stream
def check_in_pieces():
    yield from created(*[put(number) for number in range(1, 8)], corrupt(4, "data flipped"),
                       *[call("check", max_duration=0.000001) for _ in range(9)], call("store_list", name="cache"),
                       call("check", max_duration=0.000001), call("store_load", name="cache/last-key-checked"), call("check"), call("store_list", name="cache"))


@stream
def check_many():
    """Enough objects to let the hash table of the chunk index grow: order and capacity of the written index are compared."""
    yield from created(*[call("put", id=random.Random(number).randbytes(32), data=repo_object(data=b"%d" % number)) for number in range(501)],
                       call("check"), call("store_list", name="cache"),
                       *[call("put", id=random.Random(number).randbytes(32), data=repo_object(data=b"%d" % number)) for number in range(501, 1100)],
                       call("check"), call("store_list", name="cache"))


@stream
def check_colliding():
    """Ids whose first four bytes are equal or adjacent, also at the table's end, so that probing wraps around."""
    ids = [prefix.to_bytes(4, "big") + bytes([number]) * 28 for prefix in (999, 998, 0, 1999, 2**32 - 1) for number in range(6)]
    yield from created(*[call("put", id=key, data=repo_object()) for key in ids], call("check"), call("store_list", name="cache"))


@stream
def check_with_foreign_names():
    why = "a foreign name below data/ is reported and skipped; the original fails"
    yield from created(put(1), write_file("repo/data/00/01/not-hexadecimal", b"x"), differs(call("check"), why, succeeds, lasting=True), differs(call("list"), why, succeeds),
                       remove("repo/data/00/01/not-hexadecimal"), call("check"))


def lock_file(name, *, exclusive=True, host="elsewhere@1", process=1, age=0, thread=0):
    def change(directory):
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000+00:00", time.gmtime(time.time() - age))
        text = json.dumps({"exclusive": exclusive, "hostid": host, "processid": process, "threadid": thread, "time": moment})
        (directory / "repo/locks").mkdir(exist_ok=True)
        (directory / "repo/locks" / name).write_text(text)

    return disk(change, f"lock of {host} pid {process}, exclusive {exclusive}, {age} s old")


@stream
def locks_of_others():
    yield from created(put(1))
    yield lock_file("00000000000000aa")
    yield opening(exclusive=True)
    yield call("close")
    yield opening(exclusive=False)
    yield call("close")
    yield opening(lock=False)
    yield call("get", id=identity(1))
    yield call("break_lock")
    yield call("close")
    yield opening()
    yield call("close")
    yield lock_file("00000000000000ab", exclusive=False)
    yield opening(exclusive=False)
    yield call("store_list", name="data")
    yield call("close")
    yield call("open", path="repo", lock=False, lock_wait=1)
    yield call("break_lock")
    yield call("break_lock")
    yield call("close")
    yield END


@stream
def exclusive_among_shared_locks():
    yield from created()
    yield lock_file("00000000000000ab", exclusive=False)
    why = "an exclusive attempt that timed out leaves no lock behind; the original leaves its own"
    yield opening(exclusive=True)
    yield differs(disk(lambda d: None, "look"), why, lambda d: bed.lock_files(d / "repo") == ["00000000000000ab"])
    yield replace(call("close"), lasting=True)
    yield END


@stream
def stale_locks():
    yield from created()
    yield lock_file("00000000000000ac", age=1801)
    yield opening()
    yield call("close")
    yield lock_file("00000000000000ad", age=1801, exclusive=False, thread=5)
    yield opening()
    yield call("close")
    yield disk(lambda d: None, "no lock left")
    yield lock_file("00000000000000ae", host=HOST_ID, process=4194303)
    yield opening()
    yield call("close")
    yield lock_file("00000000000000af", host=HOST_ID, process=1)  # alive, and not ours
    yield opening(exclusive=False)
    yield call("close")
    yield END


@stream
def stolen_lock():
    yield from created()
    yield opening()
    yield disk(lambda d: [path.unlink() for path in (d / "repo/locks").iterdir() if path.is_file()], "all locks vanish")
    yield put(1)
    yield call("close")
    yield replace(END, test=lambda code: code in (0, 2), why="the original still holds the repository and ends with 2")


@stream
def malformed_locks():
    yield from created()
    for content in (b"{}", b"", b"not json", b"[1, 2]", b'{"exclusive": true}', b"\xff\xfe"):
        yield write_file("repo/locks/00000000000000b0", content)
        why = "a malformed lock file is tolerated and can be broken; the original cannot even open the repository"
        yield differs(opening(exclusive=False), why, succeeds, lasting=True)
        yield differs(call("break_lock"), why, succeeds)
        yield differs(call("close"), why, lambda answer: not answer.failed or answer.error == "NotLocked")
    yield END


@stream
def destruction():
    yield from created(put(1), call("destroy"), differs(call("info"), "nothing is open after destroy; the original goes on telling what was", fails("Error")), call("list"), call("get", id=identity(1)), call("put", id=identity(1), data=b"x"),
                       call("store_list", name="archives"), call("destroy"))
    yield opening()
    yield call("close")
    yield opening(create=True)
    yield put(2)
    yield write_file("repo/foreign/file", b"x")
    yield differs(call("destroy"), "what is not Borg's stays; the original removes it too", succeeds, lasting=True)
    yield call("close")
    yield END


def permitted(mode):
    """What may be done in a mode, to everything that a repository holds."""
    denied = fails("PermissionDenied")
    archive, other = (f"archives/{identity(number).hex()}" for number in (1, 2))
    yield hello()
    yield opening(create=True)
    yield put(1)
    yield call("store_store", name=archive, value=b"")
    yield call("store_store", name="archives/soft", value=b"")
    yield call("store_move", name="archives/soft", delete=True)
    yield call("put_manifest", data=repo_object())
    yield call("save_key", keydata=b"key")
    yield call("close")
    yield restart("--permissions", mode)
    yield hello()
    yield opening("new", create=True)
    yield opening()
    yield call("info")
    for method in ("get_manifest", "load_key", "list"):
        yield call(method)
    for namespace in ("archives", "config", "data", "keys", "locks"):
        yield call("store_list", name=namespace) if namespace != "locks" else call("store_list", name="nowhere")
    yield call("store_list", name="archives", deleted=True)
    yield call("store_load", name="config/version")
    yield call("store_load", name="keys/repokey")
    yield call("store_load", name="archives/none")
    yield call("store_load", name=archive)
    hidden = mode == "write-only"
    for read in (call("get", id=identity(1)), call("get", id=identity(1), read_data=False), call("store_load", name=f"data/{identity(1).hex()}")):
        yield differs(read, "a denied read of data is answered as a missing object", fails("ObjectNotFound")) if hidden else read
    read = call("get", id=identity(1), raise_missing=False)
    yield differs(read, "a denied read of data is answered as a missing object", returns(None)) if hidden else read
    adds = mode != "read-only"
    yield put(2)
    again = put(1)
    yield differs(again, "storing again what is there whole succeeds and changes nothing", returns(None)) if adds else again
    yield call("store_store", name=other, value=b"")
    yield call("store_store", name=other, value=b"")
    yield call("put_manifest", data=repo_object(b"another"))
    yield call("save_key", keydata=b"other")
    for name in (archive, "archives/none", "config/manifest", "keys/repokey", f"data/{identity(1).hex()}"):
        yield call("store_delete", name=name)
    yield call("store_delete", name="archives/soft", deleted=True)
    yield call("store_delete", name="cache/none")
    yield call("delete", id=identity(1))
    yield call("delete", id=identity(9))
    yield call("store_move", name=archive, delete=True)
    yield call("store_move", name="archives/soft", undelete=True)
    yield call("store_move", name="config/manifest", new_name="config/other")
    repair = call("check", repair=True)
    yield differs(repair, "a repair is refused before it begins", denied) if mode == "no-delete" else repair
    yield call("destroy")
    yield call("info")
    yield call("close")
    yield restart()
    yield hello()
    yield opening()
    yield call("list")
    yield call("store_list", name="archives")
    yield call("check")
    yield call("close")
    yield restart("--permissions", mode)
    yield hello()
    yield opening()
    for name in ("config/id", "config/version", "config/readme", "config/anything", "cache/anything", "archives/anything", "locks/anything"):
        written = call("store_store", name=name, value=b"poison")
        anywhere = adds or name.startswith("locks/")
        yield differs(written, "what is not Borg's is not written, nor a repository's identity", denied, lasting=True) if anywhere else written
    yield differs(END, "a hangup closes the repository", lambda code: code == 0)


@stream
def mode_no_delete():
    yield from permitted("no-delete")


@stream
def mode_write_only():
    yield from permitted("write-only")


@stream
def mode_read_only():
    yield from permitted("read-only")


@stream
def injected_exceptions():
    kinds = ["DoesNotExist", "AlreadyExists", "CheckNeeded", "IntegrityError", "InvalidRPCMethod", "PathNotAllowed", "ObjectNotFound",
             "StoreObjectNotFound", "divide", "other", ""]
    yield from created(*[call("inject_exception", kind=kind) for kind in kinds])


@stream
def reopening():
    yield from created(put(1))
    yield RESTART
    yield hello()
    yield opening(exclusive=False)
    yield call("list")
    yield put(2)
    yield call("close")
    yield opening(exclusive=True)
    yield call("list")
    yield call("close")
    yield RESTART
    yield opening()
    yield call("list")
    yield call("close")
    yield END


@stream
def hangup_with_open_repository():
    yield hello()
    yield opening(create=True)
    yield put(1)
    why = "a hangup closes the repository; the original leaves its lock behind and ends with 2"
    yield differs(END, why, lambda code: code in (0, 2), lasting=True)
    yield differs(disk(lambda d: None, "look"), why, lambda d: not bed.lock_files(d / "repo") and not bed.staged_files(d / "repo")
                  and (d / object_path(identity(1))).read_bytes() == repo_object(data=b"object 1"))


@stream
def hangup_without_repository():
    yield hello()
    yield END


def broken(name, data, **difference):
    def one():
        yield hello()
        yield replace(raw(data, name), **difference)

    one.__name__ = f"broken_{name}"
    stream(one)


for _name, _data in {"integer": b"\x05", "array": b"\x93\x01\x02\x03", "text": b"\xa3abc", "banner": b"Welcome to this machine\n", "nil": b"\xc0",
                     "extension": b"\xd4\x05\x00", "invalid": b"\xc1", "no_method": b"\x82\xa1i\x01\xa1a\x80", "no_id": b"\x82\xa1m\xa5close\xa1a\x80",
                     "no_arguments": b"\x82\xa1i\x01\xa1m\xa5close", "nested": b"\x91" * 1100 + b"\xc0", "binary_keys": b"\x83\xc4\x01i\x01\xc4\x01m\xa5close\xc4\x01a\x80",
                     "incomplete": b"\x83\xa1i\x01\xa1m\xa5cl", "empty_map": b"\x80"}.items():
    broken(_name, _data, **({"test": lambda code: code in (2, 85), "why": "an array is no request, however deep it is"} if _name == "nested" else {}))


HOST_ID = "differential@1"  # given to both servers: BORG_HOST_ID


# --- random streams ---------------------------------------------------------------------------------------------------


def random_stream(seed, length):
    """A plausible and then less plausible life of a repository; knows what exists, so that list markers do."""
    rng = random.Random(seed)
    ids = [rng.randbytes(32) for _ in range(12)] + [identity(number) for number in range(3)]
    names = [f"{namespace}/{rng.randbytes(32).hex()}" for namespace in ("archives", "cache", "config", "keys") for _ in range(3)]
    names += [f"data/{ids[0].hex()}", f"data/{ids[1].hex()}", "config/manifest", "keys/repokey"]
    there = set()

    def content():
        kind = rng.random()
        if kind < 0.8:
            return repo_object(rng.randbytes(rng.randrange(50)), rng.randbytes(rng.choice([0, 1, 50, 5000])))
        return rng.randbytes(rng.choice([0, 5, 24, 100, 200000]))

    def flag(likely):
        return rng.random() < likely

    steps = [hello(), opening(create=True), call("info")]
    for _ in range(length):
        kind, key, name, other = rng.random(), rng.choice(ids), rng.choice(names), rng.choice(names)
        stored = key.hex()
        if kind < 0.25:
            steps.append(call("put", id=key, data=content(), **({"wait": flag(0.5)} if flag(0.3) else {})))
            there.add(stored)
        elif kind < 0.40:
            steps.append(call("get", id=key, read_data=flag(0.7), raise_missing=flag(0.7)))
        elif kind < 0.48:
            steps.append(call("delete", id=key))
            there.discard(stored)
        elif kind < 0.56:
            marker = bytes.fromhex(rng.choice(sorted(there))) if there and flag(0.6) else None
            steps.append(call("list", limit=rng.choice([None, 0, 1, 3, 100]), marker=marker))
        elif kind < 0.68:
            steps.append(call("store_store", name=name, value=content()))
            if name.startswith("data/"):
                there.add(name[5:])
        elif kind < 0.76:
            steps.append(call("store_load", name=name))
        elif kind < 0.80:
            deleted = flag(0.3)
            steps.append(call("store_delete", name=name, deleted=deleted))
            if name.startswith("data/") and not deleted:
                there.discard(name[5:])
        elif kind < 0.88:
            name, other = (rng.choice([n for n in names if not n.startswith("data/")]) for _ in range(2))
            how = rng.choice([{"delete": True}, {"undelete": True}, {"new_name": other}, {"new_name": other, "deleted": True}, {}])
            steps.append(call("store_move", name=name, **how))
        elif kind < 0.93:
            steps.append(call("store_list", name=rng.choice(["archives", "cache", "config", "keys", "data", "nowhere"]), deleted=flag(0.3)))
        elif kind < 0.95:
            steps.append(rng.choice([call("get_manifest"), call("load_key"), call("put_manifest", data=content()), call("save_key", keydata=content())]))
        elif kind < 0.97:
            steps.append(call("check", repair=flag(0.3)))
            if steps[-1].arguments["repair"]:
                there.clear()  # which objects survived is not modelled: no markers until the next put
        elif kind < 0.99:
            steps += [call("close"), opening(exclusive=flag(0.5))]
        else:
            steps.append(rng.choice([odd("nonsense", {}), odd("get", {}), call("store_load", name="../x"), call("info")]))
    return steps + [call("list"), call("check"), call("close")]


# --- playing ----------------------------------------------------------------------------------------------------------


class Side:
    """One of the two servers: a process, its directory, and what was seen."""

    def __init__(self, name, command, directory):
        self.name, self.command, self.directory = name, command, directory
        self.logs, self.server = [], None
        self.dropped = False  # whether ours may have dropped the cached chunk indexes: before an object is deleted
        directory.mkdir(parents=True)
        self.start()

    def start(self, arguments=()):
        # b18 and b21 name their library's default log level differently; --info makes check's records comparable.
        self.server = bed.Server(self.command, "--info", *arguments, cwd=self.directory, environment={"BORG_HOST_ID": HOST_ID, "BORG_BASE_DIR": str(self.directory.parent / "home")})

    def stop(self):
        code = self.server.end()
        self.logs += self.server.take_logs()
        return code

    def records(self):
        logs = [log for log in self.logs if log["name"] != "borg.output.progress"]
        return collections.Counter((log["name"], log["level"], self.mask(log["msg"] % tuple(log["args"]) if log["args"] else log["msg"]))
                                   for log in logs)

    def mask(self, value):
        """Values with this side's own directory and repository ids made alike."""
        if isinstance(value, str):
            return value.replace(str(self.directory), "<directory>")
        if isinstance(value, (list, tuple)):
            return [self.mask(item) for item in value]
        if isinstance(value, dict):
            return {key: self.mask(item) for key, item in value.items()}
        return value

    def tree(self):
        """{path: what it is}; locks are counted by kind, the id is only checked for its form."""
        result, locks = {}, collections.Counter()
        for path in sorted(self.directory.rglob("*")):
            name, info = str(path.relative_to(self.directory)), path.lstat()
            mode = oct(info.st_mode)
            if path.is_symlink():
                result[name] = ("link", os.readlink(path))
            elif path.is_dir():
                if not (path.name.endswith(".tmp") and not any(path.iterdir())):
                    result[name] = ("directory", mode)
            elif path.parent.name == "locks":
                try:
                    lock = json.loads(path.read_text())
                    locks[(str(path.parent.relative_to(self.directory)), mode, lock["exclusive"], lock["hostid"], list(lock) == sorted(lock))] += 1
                except (ValueError, KeyError, TypeError):
                    result[name] = ("malformed lock", mode)
            elif name.endswith("config/id") and len(path.read_bytes()) == 64 and path.read_bytes().strip(b"0123456789abcdef") == b"":
                result[name] = ("id", mode)
            else:
                result[name] = ("file", mode, path.read_bytes())
        result["locks"] = dict(locks)
        return result


def plain(answer, side):
    """What is compared of an answer."""
    if answer.failed:
        if answer.error in STUMBLED:
            return ("some error",)
        read = ARGUMENTS_READ.get(answer.error, [0])
        return ("error", answer.error, [side.mask(answer.arguments[n]) if n < len(answer.arguments) else "missing" for n in read])
    if side.dropped and isinstance(answer.value, list) and all(isinstance(entry, list) and len(entry) == 4 for entry in answer.value):
        return ("value", [entry for entry in answer.value if not str(entry[0]).startswith("chunks.")])
    return ("value", answer.value)


def well_formed(answer):
    """Complaints about an answer's form that would make some client crash or hang."""
    message, complaints = answer.message, []
    if not answer.failed:
        return [] if "r" in message else ["no r: clients hang"]
    forms = {"exception_class": str, "exception_args": list, "exception_full": list, "exception_short": list, "exception_trace": bool, "sysinfo": str}
    return [f"{name} is {type(message.get(name)).__name__}" for name, form in forms.items() if not isinstance(message.get(name), form)]


def same(original, ours, sides):
    first, second = plain(original, sides[0]), plain(ours, sides[1])
    if first == second:
        return True
    # A damaged configuration is named as such; the original only says what number it could not read.
    if original.failed and original.error == "ValueError" and ours.failed and ours.error == "InvalidRepositoryConfig":
        return True
    return original.failed and original.error in STUMBLED and ours.failed


def compare_call(step, answers, sides):
    """A complaint, or nothing."""
    for side in sides:
        side.dropped = side.dropped or step.method in ("delete", "store_delete", "store_move", "destroy")
    complaint = compare_answers(step, answers, sides)
    if step.method == "check" and not answers[1].failed and not step.arguments.get("max_duration"):
        for side in sides:  # a full check has written the index anew
            side.dropped = False
    return complaint


def compare_answers(step, answers, sides):
    original, ours = answers
    complaints = well_formed(ours)
    if complaints:
        return f"our answer {ours!r} is malformed: {', '.join(complaints)}"
    if step.envelope and "i" in step.envelope and ours.message.get("i") != original.message.get("i"):
        return f"our answer has id {ours.message.get('i')!r}, the original's {original.message.get('i')!r}"
    if step.test:
        return None if step.test(ours) else f"intended: {step.why}\nours:     {brief(ours)}\noriginal: {brief(original)}"
    if step.method == "open" and not original.failed and not ours.failed:
        return None if isinstance(ours.value, bytes) and len(ours.value) == 32 else f"open returned {ours.value!r}"
    if step.method == "info" and not original.failed and not ours.failed:
        good = set(ours.value) == set(original.value) and ours.value["version"] == original.value["version"] and len(ours.value["id"]) == 32
        return None if good else f"info: {ours.value!r} instead of {original.value!r}"
    if step.method == "negotiate" and not original.failed and not ours.failed:
        version = ours.value.get("server_version")
        return None if isinstance(version, list) and version[:3] == [2, 0, 0] else f"negotiate: {ours.value!r}"
    return None if same(original, ours, sides) else f"ours:     {brief(ours)}\noriginal: {brief(original)}"


def tell(server, step):
    """Sends the request of a step."""
    server.number += 1
    message = {"i": server.number, "m": step.method, "a": step.arguments, **(step.envelope or {})}
    server.send_raw(server._pack(message))


def publish(side):
    """Has our server publish what it keeps staged, so that the disk can be looked at."""
    if side.server.process.stdin.closed:
        return
    side.server.number += 1
    side.server.send_raw(side.server._pack({"i": side.server.number, "m": "list", "a": {"limit": 1}}))
    side.server.read()


def play(name, steps, commands, place, *, pipelined=False):
    """Plays one stream to both; a list of complaints."""
    sides = [Side(side, command, place / name / side) for side, command in zip(("original", "ours"), commands)]
    complaints, lasting, ended = [], False, False
    steps = list(steps)

    def complain(number, step, text):
        complaints.append(f"step {number}: {step}\n" + "\n".join("    " + line for line in text.splitlines()))

    try:
        if pipelined:
            for side in sides:  # from a thread: a server that waits until its answers are read must not stop us
                requests = b"".join(side.server._pack({"i": number, "m": step.method, "a": step.arguments, **(step.envelope or {})})
                                    for number, step in enumerate(steps, 1))
                threading.Thread(target=side.server.send_raw, args=(requests,), daemon=True).start()
            for number, step in enumerate(steps, 1):
                answers = [bed.Answer(side.server.read()) for side in sides]
                if answers[1].message.get("i") != number:
                    complain(number, step, f"answer to request {answers[1].message.get('i')!r} instead of {number}")
                if text := compare_call(step, answers, sides):
                    complain(number, step, text)
            steps = []
        for number, step in enumerate(steps, 1):
            lasting = lasting or step.lasting
            if step.kind == "call":
                for side in sides:
                    tell(side.server, step)
                if text := compare_call(step, [bed.Answer(side.server.read()) for side in sides], sides):
                    complain(number, step, text)
            elif step.kind == "disk":
                publish(sides[1])
                for side in sides:
                    step.arguments(side.directory)
                if step.test and not step.test(sides[1].directory):
                    complain(number, step, f"intended: {step.why}")
            elif step.kind == "raw":
                for side in sides:
                    side.server.send_raw(step.arguments)
                codes, ended = [side.stop() for side in sides], True
                if not (step.test(codes[1]) if step.test else codes[0] == codes[1]):
                    complain(number, step, f"exit code {codes[1]}, the original's {codes[0]}")
            else:
                codes, ended = [side.stop() for side in sides], step.kind == "end"
                if not (step.test(codes[1]) if step.test else codes[0] == codes[1]):
                    complain(number, step, f"exit code {codes[1]}, the original's {codes[0]}")
                if step.kind == "restart":
                    for side in sides:
                        side.start(step.arguments)
        if not ended:
            codes = [side.stop() for side in sides]
            if codes[0] != codes[1]:
                complain("end", "end of input", f"exit code {codes[1]}, the original's {codes[0]}")
        if not lasting:
            records = [side.records() for side in sides]
            if records[0] != records[1]:
                complain("end", "log records", "\n".join(
                    [f"only the original: {record}" for record in records[0] - records[1]] + [f"only ours: {record}" for record in records[1] - records[0]]))
            trees = [side.tree() for side in sides]
            for path in set(trees[0]) - set(trees[1]):
                # Directories that hold no file come and go with the objects below them.
                if sides[0].dropped and "cache/chunks." in path or (trees[0][path][0] == "directory" and not any(other.startswith(path + "/") and kind[0] != "directory" for other, kind in trees[0].items())):
                    del trees[0][path]
            if text := bed.difference(*trees):
                complain("end", "what is on disk (expected: the original's, found: ours)", text)
        if errors := sides[1].server.errors().strip():
            # One line that says why the connection ended is ours; the original says nothing.
            if not sides[0].server.errors().strip() and not (steps and steps[-1].kind == "raw" and errors.count("\n") == 0):
                complain("end", "standard error", errors[:500])
    except (bed.Hangup, BrokenPipeError) as hangup:
        complaints.append(f"step {number}: {step}\n    {hangup}; standard error of the original: {sides[0].server.errors()[-300:]!r}, of ours: {sides[1].server.errors()[-300:]!r}")
    finally:
        for side in sides:
            side.server.kill()
    shutil.rmtree(place / name, ignore_errors=True)
    return complaints


def main():
    global VERSION
    parser = bed.parser(__doc__, limit=900)
    parser.add_argument("--rounds", type=int, default=8, help="random streams (%(default)s), each played waiting and pipelined")
    parser.add_argument("--length", type=int, default=250, help="requests in a random stream (%(default)s)")
    parser.add_argument("--only", help="only streams whose name contains this")
    parser.add_argument("--against", default=VERSION, choices=sorted(CLIENT_VERSION), help="the client's version and that of the default original")
    parser.add_argument("--differences", action="store_true", help="print the intended differences and end")
    if "--differences" in sys.argv:
        seen = {}
        for name, make in STREAMS.items():
            for step in make():
                if step.why:
                    seen.setdefault(step.why, set()).add(name)
        for why, names in seen.items():
            print(f"* {why} ({', '.join(sorted(names))})")
        return 0
    options = bed.parse(parser)
    VERSION = options.against
    if VERSION != bed.ORIGINAL_VERSION and "--original" not in " ".join(sys.argv):
        options.original = str(bed.client_path(VERSION))
    place, report = bed.Place("differential", options.keep), bed.Report()
    commands = (options.original, options.server)

    def judge(name, steps, **how):
        complaints = play(name, steps, commands, place, **how)
        report.check(name, not complaints, "\n".join(complaints[:12]) + (f"\n… and {len(complaints) - 12} more" if len(complaints) > 12 else ""))

    for name, make in STREAMS.items():
        if not options.only or options.only in name:
            judge(name, make())
    for number in range(options.rounds):
        seed = options.seed + number
        for how in ("waiting", "pipelined"):
            name = f"random_{seed}_{how}"
            if not options.only or options.only in name:
                judge(name, random_stream(seed, options.length), pipelined=how == "pipelined")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
