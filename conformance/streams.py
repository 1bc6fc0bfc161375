#!/usr/bin/env python3
"""Request streams that a server can be fed on standard input, so that it is measured without a client.

    streams.py [--borg1] {put|get} COUNT SIZE REPOSITORY > FILE
    borg serve < FILE > /dev/null        # the original
    borg-serve serve < FILE > /dev/null  # ours

A `put` stream creates REPOSITORY (which must not exist) and stores COUNT objects of SIZE bytes; `get` reads them all. They
are what a client of Borg 2 sends, or with --borg1 one of Borg 1.4, which commits at the end.
"""

import hashlib
import random
import sys

sys.dont_write_bytecode = True
import bed


def write(out, phase, count, size, repository, borg1=False):
    call = (opened_borg1 if borg1 else opened)(out, repository, creates=phase == "put")
    filler = random.Random(7).randbytes(size)
    for k in range(count):
        identity = hashlib.sha256(b"%d" % k).digest()
        if phase == "put":
            call("put", id=identity, data=identity[: min(8, size)] + filler[min(8, size):], **({} if borg1 else {"wait": False}))
        else:
            call("get", id=identity, **({} if borg1 else {"read_data": True, "raise_missing": True}))
    if not borg1:
        call("close")
    elif phase == "put":
        call("commit", **COMMIT)


# What a Borg 1.4 client commits with that does not ask for compaction.
COMMIT = {"save_space": False, "compact": False, "threshold": 0.1, "cleanup_commits": False}


def borg1_open(repository, creates, exclusive):
    return {"path": repository, "create": creates, "lock_wait": 1, "lock": True, "exclusive": exclusive, "append_only": False,
            "make_parent_dirs": False}


def write_index(out, size, repository):
    """Creates the repository, stores one chunk index of `size` bytes and loads it."""
    call = opened(out, repository, creates=True)
    name = "cache/chunks.0123456789abcdef"
    call("store_store", name=name, value=bytes(size))
    call("store_load", name=name)
    call("close")


def opened(out, repository, creates):
    """Writes how a session begins; gives what writes its further requests, numbered from 1."""
    pack = bed.load_msgpack().Packer(use_bin_type=True).pack
    number = 0

    def call(method, **arguments):
        nonlocal number
        number += 1
        out.write(pack({"i": number, "m": method, "a": arguments}))

    call("negotiate", client_data={"client_version": (2, 0, 0, -3, 18)})
    call("open", path=repository, create=creates, lock_wait=1.0, lock=True, exclusive=True, v1_or_v2=False)
    return call


def opened_borg1(out, repository, creates):
    """The same for Borg 1.4: strings and bytes in one raw form, and the first message as an array."""
    pack = bed.load_msgpack().Packer(use_bin_type=False).pack
    number = 1

    def call(method, **arguments):
        nonlocal number
        number += 1
        out.write(pack({"i": number, "m": method, "a": arguments}))

    out.write(pack(negotiation_borg1()))
    call("open", **borg1_open(repository, creates, exclusive=creates))
    return call


def negotiation_borg1():
    return [1, 1, "negotiate", [{"client_version": [1, 4, 5, -1]}]]


if __name__ == "__main__":
    borg1 = sys.argv[1:2] == ["--borg1"]
    arguments = sys.argv[2 if borg1 else 1:]
    if len(arguments) != 4 or arguments[0] not in ("put", "get"):
        sys.exit(__doc__)
    write(sys.stdout.buffer, arguments[0], int(arguments[1]), int(arguments[2]), arguments[3], borg1)
