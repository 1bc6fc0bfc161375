#!/usr/bin/env python3
"""Writes a Borg 1 repository of any size to the disk directly, for storing ten million objects through a server takes hours.

    PYTHON segments.py --objects COUNT REPOSITORY      # COUNT objects of 8 bytes
    PYTHON segments.py --gigabytes SIZE REPOSITORY     # objects as backups have them, 10^9 bytes in all for each

PYTHON is the interpreter of a Borg 1.4 client: its own index and integrity code writes what lies beside the segments, which
end up as one transaction, synced. Object number k has the SHA-256 of its decimal digits as its id. Prints how many there are.
"""

import argparse
import hashlib
import os
import random
import struct
import sys
import zlib

sys.dont_write_bytecode = True

MAGIC, SEGMENT_SIZE, SEGMENTS_PER_DIRECTORY = b"BORG_SEG", 524288000, 1000  # the sizes are the original's defaults
COMMIT = bytes.fromhex("40f43c250900000002")
PUT_HEADER = 41
BATCH = 1 << 20


def identity(number):
    return hashlib.sha256(str(number).encode()).digest()


class Segments:
    """Appends objects as a server would, and keeps what becomes index and hints."""

    def __init__(self, repository):
        from borg.hashindex import NSIndex

        self.repository = repository
        self.index, self.live, self.used = NSIndex(), {}, 0
        self.number, self.file, self.offset, self.pending = -1, None, 0, []
        os.mkdir(repository)
        os.mkdir(f"{repository}/data")
        write(f"{repository}/README", b"This is a Borg Backup repository.\nSee https://borgbackup.readthedocs.io/\n")
        settings = {"version": 1, "segments_per_dir": SEGMENTS_PER_DIRECTORY, "max_segment_size": SEGMENT_SIZE, "append_only": 0,
                    "storage_quota": 0, "additional_free_space": 0, "id": hashlib.sha256(b"measured").hexdigest()}
        write(f"{repository}/config", ("[repository]\n" + "".join(f"{key} = {value}\n" for key, value in settings.items()) + "\n").encode())

    def begin(self):
        self.end()
        self.number += 1
        directory = f"{self.repository}/data/{self.number // SEGMENTS_PER_DIRECTORY}"
        os.makedirs(directory, exist_ok=True)
        self.file = open(f"{directory}/{self.number}", "xb", buffering=0)
        self.offset, self.pending, self.live[self.number] = len(MAGIC), [MAGIC], 0

    def end(self):
        if self.file:
            self.flush()
            os.fsync(self.file.fileno())
            os.posix_fadvise(self.file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            self.file.close()

    def flush(self):
        self.file.write(b"".join(self.pending))
        self.pending = []

    def put_all(self, objects):
        """Stores pairs of an id and its data."""
        pack_head, pack_sum, checksum, waiting = struct.Struct("<IB").pack, struct.Struct("<I").pack, zlib.crc32, 0
        for key, data in objects:
            if self.file is None or self.offset > SEGMENT_SIZE:
                self.begin()
            size = PUT_HEADER + len(data)
            head = pack_head(size, 0) + key
            self.pending += (pack_sum(checksum(data, checksum(head))), head, data)
            self.index[key] = self.number, self.offset
            self.live[self.number] += 1
            self.offset += size
            self.used += size
            waiting += size
            if waiting > BATCH:
                self.flush()
                waiting = 0

    def commit(self):
        """Ends the one transaction, and writes index, hints and integrity for it."""
        from borg.crypto.file_integrity import IntegrityCheckedFile
        from borg.helpers import msgpack

        self.begin()
        self.pending.append(COMMIT)
        self.end()
        hints = {b"version": 2, b"segments": self.live, b"compact": {self.number: len(COMMIT)}, b"storage_quota_use": self.used, b"shadow_index": {}}
        integrity = {b"version": 2}
        for kind, fill in ((b"hints", lambda file: msgpack.pack(hints, file)), (b"index", self.index.write)):
            with IntegrityCheckedFile(f"{self.repository}/{kind.decode()}.{self.number}", write=True) as file:
                fill(file)
                file.flush()
                os.fsync(file.fileno())
            integrity[kind] = file.integrity_data
        write(f"{self.repository}/integrity.{self.number}", msgpack.packb(integrity))


def write(path, data):
    with open(path, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())


def small(count):
    for number in range(count):
        key = identity(number)
        yield key, key[:8]


def mixed(total):
    """Half of the objects are small, as those of metadata and of small files are; nearly all bytes are in the other half."""
    rng = random.Random(7)
    filler = memoryview(rng.randbytes(4 << 20))
    number = 0
    while total > 0:
        size = rng.randrange(300, 20000) if number % 4 < 2 else rng.randrange(1 << 19, 3 << 19)
        start = rng.randrange(len(filler) - size)
        yield identity(number), filler[start:start + size]
        total -= PUT_HEADER + size
        number += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = parser.add_mutually_exclusive_group(required=True)
    sizes.add_argument("--objects", type=int, metavar="COUNT")
    sizes.add_argument("--gigabytes", type=float, metavar="SIZE")
    parser.add_argument("repository")
    options = parser.parse_args()
    os.umask(0o077)
    segments = Segments(options.repository)
    segments.put_all(small(options.objects) if options.objects else mixed(options.gigabytes * 1e9))
    segments.commit()
    print(len(segments.index))


if __name__ == "__main__":
    main()
