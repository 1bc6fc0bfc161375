#!/usr/bin/env python3
"""The modes of --permissions over the HTTP dialect: stock clients, and one that tries everything.

Stock clients of 2.0.0b22 and b25, a repository for each mode: what the reference says goes on goes on; everything else ends
with an error, and archives, packs, keys and the repository's identity are what they were.

The hostile client speaks HTTP itself. It overwrites, deletes, moves, merges and makes directories over each object; stores
under wrong names; wipes; names other repositories, staging areas and counters by every spelling of a path it knows; and hides
requests in bodies. In each mode afterwards: what has to stay is there byte for byte, what was added has the name of its
content, nothing of another repository was changed or read, and the administrator goes on with stock Borg.

The original as server under test is expected to fail the latter: it lets the identity be overwritten, anything be stored
under any name, and requests be hidden in bodies.
"""

import hashlib
import json
import os
import random
import shutil
import sys
from urllib.parse import quote

sys.dont_write_bytecode = True
import bed
import permissions
import rawhttp
from differential_rest import digest
from rawhttp import request

VERSIONS = ("2.0.0b22", "2.0.0b25")
MODES = ("no-delete", "write-only", "read-only")
NAMESPACES = ("archives", "cache", "config", "index", "keys", "locks", "packs")
IDENTITY = ("config/readme", "config/version", "config/id", "config/config")
SECRET = b"what only the other repository knows"
scenario = bed.Scenarios()


# --- stock clients ----------------------------------------------------------------------------------------------------


class Bed(permissions.Bed):
    """Judged by the client's own version, upon the directory itself."""

    def refused(self, *arguments, server=None, environment={}):
        before = self.files()
        outcome = self.run(server or self.limited, *arguments, environment=environment)
        self.check(f"{arguments[0]} is refused", outcome.code not in (0, 1) and "PermissionDenied" in outcome.output.replace(" ", ""), outcome)
        after = self.files()
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        self.check(f"{arguments[0]} changes nothing on disk", not changed, changed[:5])

    def alone(self, *arguments, cwd=None):
        return self.run(self.original, *arguments, cwd=cwd, environment={"BORG_REPO": str(self.repository)})

    def extracted_alone(self, archive, expected):
        target = self.place.directory(f"extracted alone from {archive}")
        outcome = self.alone("extract", archive, cwd=target)
        found = bed.fingerprint(target)
        self.check(f"{archive} is extracted identically", outcome.code == 0 and found == expected, f"{outcome}\n{bed.difference(expected, found)}")
        shutil.rmtree(target)

    def data(self, name):
        (self.source / name).write_bytes(os.urandom(100_000))


def administrator(b, *archives):
    """Goes on with stock Borg and without any server."""
    outcome = b.alone("check", "--verify-data", "-v")
    b.check("check --verify-data finds no fault", outcome.code == 0 and "no problems found" in outcome.output, outcome)
    for archive, expected in archives:
        b.extracted_alone(archive, expected)
    b.data("by the administrator")
    for command in (("create", "four", "."), ("delete", "four"), ("compact",), ("check",)):
        outcome = b.alone(*command)
        b.check(f"the administrator's {command[0]}", outcome.code == 0, outcome)


@scenario
def stock_clients(options, report):
    plays = [(version, mode) for version in options.versions for mode in MODES]
    bed.run_beside_each_other([lambda play=play: stock_client(options, report, *play) for play in plays], 2)


def stock_client(options, report, version, mode):
    with bed.closing(Bed(version, mode, options, report)) as b:
        reads, adds = mode != "write-only", mode != "read-only"
        archives = [("one", b.first)]
        outcome = b.run(b.limited, "repo-create", *bed.encryption(version), environment={"BORG_REPO": b.limited.url(b.place / "new", version)})
        b.check("repo-create is refused", outcome.code not in (0, 1) and not (b.place / "new").exists(), outcome)
        if adds:
            for name in ("two", "two", "three"):
                b.data(f"for {name}")
                outcome = b.run(b.limited, "create", name, ".")
                b.check(f"create {name}", outcome.code == 0, outcome)
            archives.append(("three", bed.fingerprint(b.source)))
        else:
            b.refused("create", "two", ".")
        if reads:
            b.extracted(b.limited, "one", b.first)
            outcome = b.run(b.limited, "repo-list", "--format", "{archive}{NL}")
            b.check("repo-list", outcome.code == 0 and "one" in outcome.output, outcome)
        else:
            outcome = b.run(b.limited, "extract", "one", cwd=b.place.directory("nothing"))
            b.check("extract gives nothing", outcome.code != 0 and not os.listdir(b.place / "nothing"), outcome)
        b.refused("delete", "one")
        b.refused("key", "change-passphrase", environment={"BORG_NEW_PASSPHRASE": "another"})
        b.refused("repo-delete")
        if mode == "no-delete":
            outcome = b.run(b.limited, "check", "-v")
            b.check("check", outcome.code == 0 and "no problems found" in outcome.output, outcome)
        else:
            b.refused("check")
        b.refused("compact")
        administrator(b, *archives)


# --- the hostile client -----------------------------------------------------------------------------------------------


class Hostile:
    """A copy of a repository, another one beside it, and a client that means harm to both."""

    def __init__(self, template, mode, options, report):
        self.options, self.report, self.mode, self.version = options, report, mode, template.version
        self.name = f"hostile, {template.version} {mode}"
        self.rng = random.Random(f"{options.seed} {self.name}")
        self.place = bed.Place("hostile", options.keep)
        self.root = self.place.directory("granted")
        self.repository, self.other, self.outside = self.root / "repository", self.root / "other", self.place / "outside"
        for copy in (self.repository, self.other, self.outside):
            shutil.copytree(template.repository, copy)
        (self.other / "packs/ff").mkdir(exist_ok=True)
        for copy in (self.other, self.outside):
            (copy / "config/secret").write_bytes(SECRET)
        self.before = self.tree(self.repository)
        self.foreign = {copy: self.tree(copy) for copy in (self.other, self.outside)}
        self.server, self.answered, self.statuses, self.leaked = None, 0, {}, []
        self.hash = "blake3" if template.version >= "2.0.0b25" else "sha256"

    def tree(self, root):
        found = {}
        for folder, _, names in os.walk(root):
            for name in names:
                path = os.path.join(folder, name)
                found[os.path.relpath(path, root)] = open(path, "rb").read()
        return found

    def check(self, what, condition, detail="", note=""):
        return self.report.check(f"{self.name}: {what}", condition, detail, note)

    def start(self):
        # Restricted to the repository, so that the neighbour is none of its business.
        self.server = rawhttp.Stdio([self.options.server, "serve", "--rest", "--permissions", self.mode, "--restrict-to-repository", str(self.repository),
                                     "--backend", f"FILE:{self.repository}"])

    def send(self, data, head=None):
        """One request; None where the server ended instead of answering, and is started anew."""
        if not self.server:
            self.start()
        try:
            answer = self.server.exchange(data, head, timeout=20)
        except (rawhttp.Hangup, rawhttp.Garbled) as error:
            self.server.kill()
            self.server = None
            if isinstance(error, rawhttp.Garbled):
                self.leaked.append(f"{data[:100]!r}: {error}")
            return None
        self.answered += 1
        self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        if SECRET in answer.raw:
            self.leaked.append(f"{data[:100]!r}: {answer}")
        return answer

    def end(self):
        if self.server:
            self.server.end()
            self.server = None

    def ask(self, method, target, body=None, headers=()):
        return self.send(request(method, target, body, headers=headers))

    def store(self, name, body, hashed=True):
        return self.ask("POST", f"/{name}", body, [("X-Content-hash-sha256", hashlib.sha256(body).hexdigest())] if hashed else ())

    def move(self, current, new):
        return self.ask("POST", f"/?cmd=move&current={quote(current, safe='')}&new={quote(new, safe='')}")

    def defrag(self, sources, query):
        return self.ask("POST", f"/?cmd=defrag&{query}", json.dumps(sources).encode())

    def close(self):
        if self.server:
            self.server.kill()
        self.place.close()


def stays(mode, name):
    """Whether an object may not be changed: of index, cache and settings the tables leave more than Borg needs."""
    return name.split("/")[0] in ("archives", "packs", "keys") or name in IDENTITY or mode == "read-only" and not name.startswith("locks/")


def over_objects(h):
    """Everything that there is, over each object and each directory."""
    names = [name for name in h.before if stays(h.mode, name)]
    source = next(name for name in names if name.startswith("packs"))
    for name in names:
        content = h.before[name]
        for body in (b"", b"other", content + b"!", content[:-1]):
            if body != content:
                h.store(name, body)
                h.store(name, body, hashed=False)
        h.store(name, content)  # the same again, which may be answered by success
        h.ask("DELETE", f"/{name}")
        h.ask("DELETE", f"/{name}?cmd=rmdir")
        h.ask("DELETE", f"/{name}/")
        h.ask("POST", f"/{name}?cmd=mkdir", b"")
        h.store(f"{name}/below", b"x")
        for other in (f"{name}.del", "cache/chunks", "locks/" + "0" * 64, "index/" + "0" * 64, "config/manifest2", "archives/" + "1" * 64, "packs/00/" + "0" * 64):
            h.move(name, other)
            h.move(other, name)
        h.defrag([[source, 0, 3]], f"target={quote(name, safe='')}")
        h.defrag([], f"target={quote(name, safe='')}")
        h.store("cache/mine", b"mine")
        h.move("cache/mine", name)
    for directory in ["", *NAMESPACES, *{os.path.dirname(name) for name in h.before}]:
        h.ask("DELETE", f"/{directory}")
        h.ask("DELETE", f"/{directory}?cmd=rmdir")
        h.move(directory, "cache/gone")
        h.move("cache/mine", directory)
        h.store(directory, b"x")
    for command in ("DELETE /?cmd=destroy", "DELETE //?cmd=destroy", "DELETE /packs?cmd=destroy", "POST /?cmd=create", "POST /packs?cmd=create"):
        h.ask(*command.split(), b"")
    for level in ("0", "1", "2", "-1", "x", "99999999999999999999"):
        for namespace in ("packs", "packs/", "archives", "keys", "config", "", "..", "cache", "locks"):
            h.defrag([[source, 0, 10]], f"algorithm={h.hash}&namespace={quote(namespace, safe='')}&levels={level}")


def wrong_names(h):
    """New objects that are not what they are called."""
    body = h.rng.randbytes(100)
    right, wrong = digest(body, h.hash), "ab" * 32
    for name in (f"packs/{wrong[:2]}/{wrong}", f"packs/{wrong}", f"packs/00/{right}", f"packs/{right[:2]}/{right}x", f"packs/{right[:2]}/{right[:-1]}", f"packs/{right}", f"packs/{right[:2]}",
                 f"packs/{right[:2]}/{right[2:4]}/{right}", f"keys/{right}", f"keys/{wrong}", f"keys/{wrong}.del", f"index/{wrong}", f"locks/{wrong}", f"archives/{wrong}", f"archives/{right}",
                 f"archives/{wrong}.del", "archives/x", "config/x", "config/config.del", "config/version.del", "stray", "data/00/00/x", "packs", "archives", f"{right}", "hints.1", "README"):
        h.store(name, body)
        h.store(name, body, hashed=False)
    h.store(f"archives/{wrong}x", b"")
    for name in ("data", "packs/zz", "packs/0", "packs/00/11", "archives/x", "keys/x", "config/x", "index/x", "x", "x/y/z"):
        h.ask("POST", f"/{name}?cmd=mkdir", b"")


def paths(h):
    """Other repositories, staging areas and counters, by every spelling, in every place of a request that names something."""
    up = ("..", "%2e%2e", "%2E%2E", ".%2e", "%252e%252e", "%c0%ae%c0%ae", "..%2f", "..;", "...", ".", "..\\", "..%5c", "..%00")
    names = [f"{dots}/other/config/secret" for dots in up] + [f"packs/{dots}/{dots}/other/config/secret" for dots in up] + [f"config/{dots}/config/version" for dots in up]
    names += ["/etc/passwd", "//etc/passwd", str(h.other / "config/secret"), "/" + str(h.other / "config/secret"), "%2fetc%2fpasswd", "file:///etc/passwd", f"FILE:{h.other}/config/secret",
              "http://host/../other/config/secret", "other/config/secret", "../outside/config/secret", "../../outside/config/secret", "~/x", "config/version%00", "config/version\x00x", "\x00",
              "config//version", "config/./version", "./config/version", "CONFIG/version", "Config/Version", "config\\version", "config/version/", "config/version/.", "config/version;x",
              "config/version#x", "config/version?x=1", "config%2fversion", "config%2Fversion", "quota.hid", "borg-serve-usage.hid", "borg-serve-usage-users.hid", "config/version.tmp", "config.tmp/version",
              "borg-serve.tmp", "borg-serve.tmp/1/1", "packs/borg-serve.tmp/1/1", "tmpabcdefgh.tmp", "packs/x.hid", "lock.exclusive", "n" * 101, "n" * 300, "a/" * 60, "ünïcode", "packs/\r\nx", "packs/ x", " ", "*", "packs/*"]
    source = next(name for name in h.before if name.startswith("packs"))
    for name in names:
        wire = name.encode("utf-8").decode("latin-1").replace("\r", "%0d").replace("\n", "%0a").replace(" ", "%20").replace("\x00", "%00")
        for target in {f"/{wire}", wire}:
            for method, suffix, body in (("GET", "", None), ("HEAD", "", None), ("GET", "/", None), ("DELETE", "", None), ("DELETE", "?cmd=rmdir", None), ("POST", "?cmd=mkdir", b""), ("POST", "?cmd=hash", b"")):
                if not (h.mode == "all" and is_own(wire)):
                    h.ask(method, target + suffix, body)
            if not (h.mode == "all" and is_own(wire)):
                h.ask("POST", target, b"hostile", [("X-Content-hash-sha256", hashlib.sha256(b"hostile").hexdigest())])
        if h.mode == "all" and is_own(name):
            continue
        for encoded in {quote(name, safe=""), quote(quote(name, safe=""), safe="")}:
            h.ask("POST", f"/?cmd=move&current=cache/mine&new={encoded}")
            h.ask("POST", f"/?cmd=move&current={encoded}&new=cache/stolen")
            h.ask("GET", "/cache/stolen")
            h.ask("POST", f"/?cmd=defrag&target={encoded}", json.dumps([[source, 0, 3]]).encode())
            h.ask("POST", f"/?cmd=defrag&algorithm=sha256&levels=1&namespace={encoded}", json.dumps([[source, 0, 3]]).encode())
        h.ask("POST", "/?cmd=gather", json.dumps([[name, 0, 5]]).encode())
        h.ask("POST", "/?cmd=defrag&target=cache/stolen", json.dumps([[name, 0, 5]]).encode())


def is_own(name):
    """Whether a spelling names one of the repository's own objects, which mode `all` lets everybody change."""
    return name.startswith(("config/version?", "config/version#")) or name == "config/version/"


def raw_bytes(h):
    """NUL, line ends and controls as they are, in the request line."""
    for raw in (b"\x00", b"\x01", b"\x7f", b"\xff\xfe", b"\t", b"\r", b" "):
        h.send(b"POST /cache/a" + raw + b"b HTTP/1.1\r\nAccept: " + rawhttp.ACCEPT.encode() + b"\r\nContent-Length: 1\r\n\r\nx")
        h.end()


def smuggled(h):
    """A request within a request: nothing of it may be done, whether the connection goes on or not."""
    inner = request("POST", "/cache/smuggled", b"x")
    accept = f"Accept: {rawhttp.ACCEPT}\r\n".encode()
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(inner), inner)
    attempts = {
        "in the body of a refused store": request("POST", "/keys/" + "a" * 64, inner),
        "in the body of an unacceptable request": request("POST", "/cache/x", inner, accept="*/*"),
        "in the body of an unknown method": request("PUT", "/cache/x", inner),
        "in a body with GET": request("GET", "/config/version", inner, length=len(inner)),
        "in a body with HEAD": request("HEAD", "/config/version", inner, length=len(inner)),
        "in a body with DELETE": request("DELETE", "/cache/none", inner),
        "in bad JSON": request("POST", "/?cmd=gather", inner),
        "in a body of mkdir": request("POST", "/cache/m?cmd=mkdir", inner),
        "chunked": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Transfer-Encoding: chunked\r\n\r\n" + chunked,
        "chunked and with a length": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked,
        "after an obscure coding": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Transfer-Encoding: xchunked\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner,
        "between two lengths": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Content-Length: 0\r\nContent-Length: %d\r\n\r\n" % len(inner) + inner,
        "behind a list of lengths": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Content-Length: 0, %d\r\n\r\n" % len(inner) + inner,
        "behind a signed length": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Content-Length: +%d\r\n\r\n" % len(inner) + inner,
        "behind a negative length": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Content-Length: -1\r\n\r\n" + inner,
        "behind a hexadecimal length": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Content-Length: 0x0\r\n\r\n" + inner,
        "behind a huge length": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Content-Length: 18446744073709551616\r\n\r\n" + inner,
        "behind a blank before the colon": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Content-Length : %d\r\n\r\n" % len(inner) + inner,
        "behind a folded length": b"POST /cache/x HTTP/1.1\r\n" + accept + b"Content-Length:\r\n %d\r\n\r\n" % len(inner) + inner,
        "behind a lone CR": b"POST /cache/x HTTP/1.1\r\n" + accept + b"X: y\rContent-Length: %d\r\n\r\n" % len(inner) + inner,
        "in a name": b"POST /cache/x%0d%0a%0d%0a" + quote(inner).encode() + b" HTTP/1.1\r\n" + accept + b"Content-Length: 0\r\n\r\n",
        "in the version": b"POST /cache/x HTTP/9.9\r\n" + accept + b"Content-Length: %d\r\n\r\n" % len(inner) + inner,
    }
    for where, data in attempts.items():
        done = []
        h.end()
        h.start()
        try:
            h.server.send(data, 10)
            # Whatever it answers: one request, one response, and the next response is the next request's.
            done.append(h.server.response(data.startswith(b"HEAD"), 10).status)
            if h.server.ended:
                raise rawhttp.Hangup("ended")
            h.server.send(request("GET", "/cache/marker-of-the-next"), 10)
            done.append(h.server.response(False, 5).status)
        except (rawhttp.Hangup, rawhttp.Garbled):
            pass
        _, left = h.server.end()
        h.server = None
        trace = h.repository / "cache/smuggled"
        there = trace.exists()
        trace.unlink(missing_ok=True)
        h.check(f"smuggled {where}: not done, and in step", not there and not left and len(done) in (1, 2) and (len(done) == 1 or done[1] in (403, 404)), f"{there} {left[:200]!r} {done}", f"{done}")


@scenario
def hostile_clients(options, report):
    bed.run_beside_each_other([lambda version=version: hostile_client(options, report, version) for version in options.versions], 2)


def hostile_client(options, report, version):
    b = Bed(version, "all", options, report)
    try:
        b.version = version
        (b.source / "of three").write_bytes(os.urandom(50_000))
        b.run(b.ours, "create", "three", ".", ok=True)
        three = bed.fingerprint(b.source)
        for mode in ("all", *MODES):
            with bed.closing(Hostile(b, mode, options, report)) as h:
                if mode in ("all", "no-delete"):
                    smuggled(h)
                for attack in ([over_objects, wrong_names] if mode != "all" else []) + [paths, raw_bytes]:
                    attack(h)
                h.end()
                judge(h)
                if mode == "no-delete":
                    go_on(b, h, three)
    finally:
        b.close()


def judge(h):
    now = h.tree(h.repository)
    note = ", ".join(f"{count} x {status}" for status, count in sorted(h.statuses.items()))
    h.check("requests were answered", h.answered > 1000, note=note)
    changed = [name for name, content in h.before.items() if stays(h.mode, name) and now.get(name) != content]
    if h.mode != "all":
        h.check("what has to stay is there byte for byte", not changed, changed[:10])
        added = [name for name in now if name not in h.before]
        allowed = {"read-only": ("locks",), "no-delete": ("archives", "cache", "config", "index", "locks", "packs")}.get(h.mode, ("archives", "cache", "config", "index", "locks", "packs"))
        stray = [name for name in added if name.split("/")[0] not in allowed or name.startswith("archives/") and now[name]]
        h.check("nothing is added but what may be", not stray, stray[:10], f"{len(added)} added")
        wrong = bed.misnamed_objects(h.repository)
        h.check("each object is what its name says", not wrong, wrong[:10])
        entries = set(os.listdir(h.repository)) - set(NAMESPACES)
        h.check("no other directory was made", not entries, entries)
    else:
        h.check("its own objects are as they were", not [name for name in changed if name.split("/")[0] != "cache"], changed[:10])
    for copy, before in h.foreign.items():
        h.check(f"{copy.name}: nothing of it was changed", h.tree(copy) == before, sorted(set(h.tree(copy)) ^ set(before))[:5])
    h.check("and nothing of it was read", not h.leaked, "\n".join(h.leaked[:10]))
    beside = sorted(os.listdir(h.place.path)) + sorted(os.listdir(h.root))
    h.check("nothing was made beside", beside == ["granted", "outside", "other", "repository"], beside)
    left = bed.staged_files(h.repository)
    h.check("no unfinished file is left", not left, left[:5])


def go_on(b, h, three):
    """The administrator, after the attack, with what an attacker may do undone by Borg's own means."""
    # With what the client knew of the repository before: it refuses one that is older than it has seen.
    shutil.copytree(b.place / "home", h.place / "home", symlinks=True)
    saved = b.repository, b.name, b.client.environment
    b.repository, b.name = h.repository, h.name
    b.client.environment = {**b.client.environment, "HOME": str(h.place / "home"), "BORG_BASE_DIR": str(h.place / "home")}
    try:
        for name in ("archives/" + "ab" * 32,):  # an entry of an archive that there is none of, as `lrw` lets everybody make
            (h.repository / name).unlink(missing_ok=True)
        administrator(b, ("one", b.first), ("three", three))
    finally:
        b.repository, b.name, b.client.environment = saved
        (b.source / "by the administrator").unlink(missing_ok=True)


def main():
    parser = bed.parser(__doc__, limit=300)
    scenario.add_argument(parser)
    parser.add_argument("--clients", default=",".join(VERSIONS), help="(%(default)s)")
    options = bed.parse(parser)
    options.versions = options.clients.split(",")
    report = bed.Report()
    for play in scenario.chosen(options):
        play(options, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
