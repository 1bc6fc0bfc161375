#!/usr/bin/env python3
"""Request streams that a server can be fed on standard input, so that it is measured without a client.

    streams.py {put|get} COUNT SIZE REPOSITORY > FILE
    borg serve < FILE > /dev/null        # the original
    borg-serve serve < FILE > /dev/null  # ours

A `put` stream creates REPOSITORY (which must not exist) and stores COUNT objects of SIZE bytes; `get` reads them all.
"""

import hashlib
import random
import sys

sys.dont_write_bytecode = True
import bed


def write(out, phase, count, size, repository):
    call = opened(out, repository, creates=phase == "put")
    filler = random.Random(7).randbytes(size)
    for k in range(count):
        identity = hashlib.sha256(b"%d" % k).digest()
        if phase == "put":
            call("put", id=identity, data=identity[: min(8, size)] + filler[min(8, size):], wait=False)
        else:
            call("get", id=identity, read_data=True, raise_missing=True)
    call("close")


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


if __name__ == "__main__":
    if len(sys.argv) != 5 or sys.argv[1] not in ("put", "get"):
        sys.exit(__doc__)
    write(sys.stdout.buffer, sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
