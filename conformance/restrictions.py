#!/usr/bin/env python3
"""--restrict-to-path and --restrict-to-repository against clients and file systems that mean harm.

Proved: which paths are admitted, by both kinds of restriction alone and together; that a path whose links are swapped while
it is checked never leads outside; that links inside a repository are followed only within what is granted; and, by a log of
all system calls under a stock client, that nothing outside the granted roots is opened, made, renamed or removed, but for
what the C library reads to start and to find the host's name. (That the kernel holds where our own check has a hole is a
unit test: `KernelConfinementTests`.)

All of it for all protocols: Borg 2's, that of 1.x with its repositories, and HTTP with those of 2.0.0b25, where a process
serves one path that it is started with.
"""

import ctypes
import hashlib
import os
import re
import sys
import threading

sys.dont_write_bytecode = True
import bed
import borg1
import rawhttp
from rawhttp import request

PROTOCOLS = ("2", "1.x", "REST")
REST_VERSION = "2.0.0b25"
AT_FDCWD, RENAME_EXCHANGE = -100, 2

# Read-only, by the loader and the language's runtime before the program starts, and by the name service.
SYSTEM = ("/sys/devices/system/cpu", "/etc/ld.so.cache", "/etc/ld.so.preload", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/hosts", "/etc/host.conf", "/etc/hostname",
          "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/usr/local/lib", "/run/systemd/resolve", "/run/nscd",
          "/run/resolvconf", "/run/NetworkManager/resolv.conf", "/run/systemd/machines", "/var/lib/misc")


def kernel_confines():
    """Whether the kernel has Landlock of version 2 or later: the program's own condition."""
    return ctypes.CDLL(None).syscall(444, None, 0, 1) >= 2


def start(protocol, options, place, *arguments):
    """A server that was told the client's version, if it has to be told."""
    if protocol == "2":
        return bed.Server(options.server, *arguments, cwd=place.path)
    server = borg1.Server1(borg1.under_test(place, options), *arguments)
    server.negotiate()
    return server


class Store:
    """A server of the store at a path, spoken to in HTTP."""

    def __init__(self, options, path, *arguments):
        backend = f"FILE:{os.fsdecode(path)}"
        self.connection = rawhttp.Stdio([options.server, "serve", "--rest", "--backend", backend, *arguments])

    def ask(self, *arguments, **more):
        return self.connection.exchange(request(*arguments, **more))

    def store(self, name, body):
        return self.ask("POST", f"/{name}", body, headers=[("X-Content-hash-sha256", hashlib.sha256(body).hexdigest())])

    def open(self, create=False):
        """The repository's id, made at random if it is to be created, or what RPC would call the error."""
        try:
            if create and self.ask("POST", "/?cmd=create", b"").status == 200:
                self.store("config/version", b"4")
                self.store("config/id", os.urandom(32).hex().encode())
            answer = self.ask("GET", "/config/id")
            if answer.status == 403 and b"this path is not allowed" in answer.body:
                return "PathNotAllowed"  # the path led outside only after the start had looked at it
            return answer.body if answer.status == 200 else "DoesNotExist" if answer.status == 410 else str(answer)
        except rawhttp.Hangup:
            return "PathNotAllowed" if self.connection.process.wait(10) == 83 else "it ended"


def open_once(protocol, options, place, path, *arguments, create=False):
    """What one `open` comes to on a server of its own: the repository's id, or the error's class."""
    if protocol == "REST":
        store = Store(options, path, *arguments)
        try:
            return store.open(create)
        finally:
            store.connection.end()
    server = start(protocol, options, place, *arguments)
    try:
        # Borg 2 makes missing parents without being asked.
        more = {"make_parent_dirs": True} if protocol == "1.x" else {}
        answer = server.call("open", path=path, create=create, exclusive=True, lock_wait=5, **more)
        if answer.failed:
            return answer.error
        if protocol == "2":
            server.call("close")
        return answer.value
    finally:
        server.end()


def admission(protocol, options, report):
    """Paths that are admitted and paths that are not: each is created and opened, or neither."""
    place = bed.Place("admission", options.keep)
    try:
        root = place.directory("srv")
        for name in ("jail/inner", "jail2", "other/theirs", "empty"):
            (root / name).mkdir(parents=True)
        (root / "jail/out").symlink_to("../other")
        (root / "jail/absolute").symlink_to(root / "other")
        (root / "into").symlink_to("jail")
        (root / "loop").symlink_to("loop")
        foreign = open_once(protocol, options, place, str(root / "other/theirs"), create=True)
        path, repository = "--restrict-to-path", "--restrict-to-repository"
        odd = os.fsencode(root) + b"/jail/\xff\xfe"
        cases = [  # restrictions, path, admitted
            ([path, root / "jail"], "jail/a", True),
            ([path, root / "jail"], "jail/deep/er/b", True),
            ([path, root / "jail"], "jail/./inner/../c", True),
            ([path, root / "jail"], "other/../jail/d", True),
            ([path, root / "jail"], "into/e", True),
            ([path, f"{root}/jail/"], "jail/f", True),
            ([path, root / "into"], "jail/g", True),
            ([path, root / "jail"], odd, True),
            ([path, root / "jail"], "jail2/a", False),
            ([path, root / "jail"], "jail2", False),
            ([path, root / "jail"], "other/theirs", False),
            ([path, root / "jail"], "jail/out/theirs", False),
            ([path, root / "jail"], "jail/absolute/theirs", False),
            ([path, root / "jail"], "jail/../other/theirs", False),
            ([path, root / "jail"], "jail/out/../jail2/x", False),
            ([path, root / "jail"], "", False),
            ([path, root / "jail"], "loop/x", False),
            ([path, root / "jail", path, root / "jail2"], "jail2/h", True),
            ([repository, root / "empty"], "empty", True),
            ([repository, root / "missing"], "missing", True),
            ([repository, root / "missing"], "missing/below", False),
            ([repository, root / "missing"], "missing2", False),
            ([repository, root / "one", repository, root / "two"], "two", True),
            ([repository, root / "other"], "other/theirs", False),
            ([path, root / "jail", repository, root / "jail/both"], "jail/both", True),
            ([path, root / "jail", repository, root / "jail2/both"], "jail2/both", False),
            ([path, root / "jail", repository, root / "jail/both"], "jail/other", False),
        ]
        for arguments, name, admitted in cases:
            arguments = [str(argument) for argument in arguments]
            target = name if isinstance(name, bytes) else str(root / name)
            created = open_once(protocol, options, place, target, *arguments, create=True)
            opened = open_once(protocol, options, place, target, *arguments)
            shown = " ".join(arguments).replace(str(root), "")
            good = isinstance(created, bytes) and created == opened if admitted else created == opened == "PathNotAllowed"
            report.check(f"{protocol}: {shown}: {name!r} is {'admitted' if admitted else 'refused'}", good, f"create: {created!r}, open: {opened!r}")
        report.check(f"{protocol}: nothing was made outside", sorted(os.listdir(root / "other")) == ["theirs"] and os.listdir(root / "jail2") == ["h"],
                     sorted(os.listdir(root / "other")))
        report.check(f"{protocol}: the foreign repository is what it was", open_once(protocol, options, place, str(root / "other/theirs")) == foreign)

        if protocol == "REST":
            server = Store(options, root / "jail/a", path, str(root / "jail"), "--debug")
            server.open()
            server.connection.end()
            kernel_said(protocol, report, server.connection.errors().splitlines())
            return
        server = start(protocol, options, place, path, str(root / "jail"), "--debug")
        first = server.call("open", path=str(root / "jail/a"), exclusive=True, lock_wait=5)
        second = server.call("open", path=str(root / "other/theirs"), exclusive=True, lock_wait=5)
        report.check(f"{protocol}: a second open is held against the restriction, too", not first.failed and second.error == "PathNotAllowed", second)
        still = server.call("info").value["id"] == first.value if protocol == "2" else server.call("__len__").value == 0
        report.check(f"{protocol}: and leaves the first one open", still)
        said = [record["msg"] for record in server.take_logs()] if protocol == "2" else server.said().splitlines()
        kernel_said(protocol, report, said)
        server.end()
    finally:
        place.close()


def kernel_said(protocol, report, said):
    """Whether the server's messages say what the kernel does for the restriction."""
    told = [line.removeprefix("DEBUG ").removeprefix("borg-serve: ") for line in said if "onfined by the kernel" in line]
    confined = kernel_confines()
    expected = "Confined by the kernel to one directory" if confined else "Not confined by the kernel, as "
    report.check(f"{protocol}: --debug says whether the kernel confines", len(told) == 1 and told[0].startswith(expected), told)
    if not confined:
        report.skip("the kernel's confinement", "it has no Landlock of version 2")


def swapped_links(protocol, options, report):
    """A path that somebody else changes all the time between one inside and one outside."""
    for what in ("last", "middle"):
        place = bed.Place("swapped", options.keep)
        try:
            root, outside = place.directory("granted"), place.directory("outside")
            (root / "real").mkdir()
            inside_id = open_once(protocol, options, place, str(root / "real/r"), create=True)
            outside_id = open_once(protocol, options, place, str(outside / "r"), create=True)
            # The name is a link inside, then one outside, then a directory: exchanged by rename.
            name = root / "name"
            targets = ("real/r", outside / "r") if what == "last" else ("real", outside)
            stop, flips = threading.Event(), [0]

            def flip():
                while not stop.is_set():
                    for target in targets:
                        os.symlink(target, f"{name}.new")
                        os.rename(f"{name}.new", name)
                        flips[0] += 1

            flipper = threading.Thread(target=flip)
            flipper.start()
            outcomes = {}
            try:
                path = str(name if what == "last" else name / "r")
                for value in opened_often(protocol, options, place, root, path):
                    outcome = {inside_id: "inside", outside_id: "OUTSIDE"}.get(value, value)
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1
            finally:
                stop.set()
                flipper.join()
            proved = outcomes.get("inside", 0) > 0 and outcomes.get("PathNotAllowed", 0) > 0 and flips[0] > 100
            report.check(f"{protocol}: swapped links, {what} element: never outside", proved and not set(outcomes) - {"inside", "PathNotAllowed", "DoesNotExist"},
                         f"{outcomes}, {flips[0]} changes", f"{outcomes}, {flips[0]} changes")
            staged = [name for name in os.listdir(outside / "r") if name.endswith(".tmp") or name.startswith("lock.")]
            report.check(f"{protocol}: swapped links, {what} element: nothing was left outside", not bed.lock_files(outside / "r") and not staged)
        finally:
            place.close()


def opened_often(protocol, options, place, root, path):
    """What opening a path again and again comes to, within a restriction."""
    if protocol == "REST":
        for _ in range(150):
            yield open_once(protocol, options, place, path, "--restrict-to-path", str(root))
        return
    server = start(protocol, options, place, "--restrict-to-path", str(root))
    for _ in range(400):
        answer = server.call("open", path=path, lock=False, lock_wait=1)
        yield answer.error if answer.failed else answer.value
    server.end()


def client_of(protocol, place, ours, repository):
    """A function that runs a command of a stock client, {} being the repository's place in it where 1.x names it."""
    if protocol != "1.x":
        version = REST_VERSION if protocol == "REST" else bed.ORIGINAL_VERSION
        return bed.Client(version, place, repository=ours.url(repository, version), rsh=ours.rsh, BORG_PACK_MAX_COUNT="4").run
    client = borg1.Client(borg1.Program(place, "1.4.5", bed.client_path("1.4.5"), "1.4.5"), place)
    url = f"ssh://test{repository}"
    return lambda *words, cwd=None: client.run(*(word.replace("{}", url) for word in words), rsh=ours.rsh, cwd=cwd)


COMMANDS = {
    "2": {"init": ("repo-create", "-e", "none"), "one": ("create", "one", "."), "two": ("create", "two", "."), "list": ("repo-list",),
          "check": ("check",), "delete": ("delete", "one"), "compact": ("compact",), "extract one": ("extract", "one"),
          "extract two": ("extract", "two", "--dry-run"), "destroy": ("repo-delete",)},
    "1.x": {"init": ("init", "-e", "none", "{}"), "one": ("create", "{}::one", "."), "two": ("create", "{}::two", "."), "list": ("list", "{}"),
            "check": ("check", "{}"), "delete": ("delete", "{}::one"), "compact": ("compact", "--threshold", "0", "{}"),
            "extract one": ("extract", "{}::one"), "extract two": ("extract", "--dry-run", "{}::two"), "destroy": ("delete", "{}")},
}  # fmt: skip
COMMANDS["REST"] = {**COMMANDS["2"], "init": ("repo-create", *bed.encryption(REST_VERSION))}
DIALECT = {"REST": ["--rest"]}
DATA = {"2": "data", "1.x": "data", "REST": "packs"}  # where the bulk of a repository is


def swapped_data(protocol, options, report):
    """`data/`, and a directory in it, exchanged for a link to another repository's all the time, while clients read and write."""
    if protocol == "2":
        return
    pack = hashlib.sha256(b"inside").hexdigest()
    for name in ("packs", f"packs/{pack[:2]}") if protocol == "REST" else ("data", "data/0"):
        place = bed.Place("data", options.keep)
        try:
            root, outside = place.directory("granted"), place.directory("outside")
            for where, data in ((root / "r", b"inside"), (outside / "r", b"OUTSIDE")):
                if protocol == "REST":
                    (where / "packs" / pack[:2]).mkdir(parents=True)
                    (where / "packs" / pack[:2] / pack).write_bytes(data)
                    (where / "config").mkdir()
                    (where / "config/readme").write_text("of a repository")
                    continue
                server = start(protocol, options, place)
                server.must("open", path=str(where), create=True, exclusive=True, lock_wait=5)
                server.must("put", id=b"1" * 32, data=data)
                server.must("commit")
                server.end()
            before = bed.fingerprint(outside)
            real, stop, flips = root / "r" / name, threading.Event(), [0]

            # Outside the directory and in it by turns, in one step each.
            os.symlink(outside / "r" / name, root / "aside")
            exchange = ctypes.CDLL(None, use_errno=True).renameat2
            arguments = (AT_FDCWD, os.fsencode(root / "aside"), AT_FDCWD, os.fsencode(real), RENAME_EXCHANGE)

            def flip():
                while not stop.is_set():
                    flips[0] += exchange(*arguments) == 0

            flipper = threading.Thread(target=flip)
            flipper.start()
            values, failed = set(), 0
            try:
                if protocol == "REST":
                    failed = tried_in_http(options, root, pack, values)
                server = None if protocol == "REST" else start(protocol, options, place, "--restrict-to-path", str(root))
                for _ in range(100 if server else 0):
                    answer = server.call("open", path=str(root / "r"), exclusive=True, lock_wait=5)
                    if not answer.failed:
                        answer = server.call("get", id=b"1" * 32)
                        values |= set() if answer.failed else {answer.value}
                        server.call("put", id=b"2" * 32, data=b"new")
                        server.call("check")
                        answer = server.call("commit")
                    failed += answer.failed
                if server:
                    server.end()
            finally:
                stop.set()
                flipper.join()
            note = f"{flips[0]} changes, {failed} of 100 failed"
            report.check(f"{protocol}: swapped {name}: nothing of outside is read", values == {b"inside"} and flips[0] > 300, values, note)
            report.check(f"{protocol}: swapped {name}: nothing is changed outside", bed.fingerprint(outside) == before,
                         bed.difference(before, bed.fingerprint(outside)))
        finally:
            place.close()


def tried_in_http(options, root, pack, values):
    """Reads a pack, and writes and removes others beside it, in some sessions; adds what was read, returns what failed."""
    failed, name = 0, f"packs/{pack[:2]}/{pack}"
    for number in range(100):
        server = Store(options, root / "r", "--restrict-to-path", str(root))
        other = f"packs/{pack[:2]}/{number:064}"
        answers = []
        try:
            for read in (("GET", f"/{name}"), ("POST", "/?cmd=gather", f'[["{name}", 0, 6]]'.encode())):
                answers.append(server.ask(*read))
                values |= {answers[-1].body} if answers[-1].status == 200 else set()
            answers.append(server.store(other, b"new"))
            for change in (("POST", f"/?cmd=move&current={other}&new={other}.del", b""), ("DELETE", f"/{other}.del"), ("POST", f"/packs/{pack[:2]}?cmd=mkdir", b""),
                           ("POST", f"/?cmd=defrag&target={other}", f'[["{name}", 0, 6]]'.encode())):
                answers.append(server.ask(*change))
        except rawhttp.Hangup:
            pass  # what has vanished since it was announced ends the connection
        failed += not any(answer.status == 200 for answer in answers)
        server.connection.end()
    return failed


def links_inside(protocol, options, report):
    """`data/` on another disk: followed where that is granted, and not followed where it is not."""
    for granted in (True, False):
        place = bed.Place("links", options.keep)
        try:
            root = place.directory("granted")
            disk = place.directory("granted/disk" if granted else "disk")
            repository = root / "repository"
            ours = bed.Pipes(place, "ours", options.server, *DIALECT.get(protocol, []), "--restrict-to-path", str(root))
            run, commands = client_of(protocol, place, ours, repository), COMMANDS[protocol]
            source = place.directory("source")
            for number in range(20):
                (source / f"{number}").write_bytes(os.urandom(5000))
            expected = bed.fingerprint(source)
            steps = [run(*commands["init"]), run(*commands["one"], cwd=source)]
            os.rename(repository / DATA[protocol], disk / "data")
            (repository / DATA[protocol]).symlink_to(disk / "data")
            before = bed.fingerprint(disk)
            (source / "new").write_bytes(os.urandom(5000))
            steps.append(run(*commands["two"], cwd=source))
            target = place.directory("target")
            steps.append(run(*commands["extract one"], cwd=target))
            steps.append(run(*commands["check"]))
            codes = [step.code for step in steps]
            if granted:
                good = codes == [0] * 5 and bed.fingerprint(target) == expected and bed.fingerprint(disk) != before
                report.check(f"{protocol}: a link to what is granted is followed", good, "\n".join(map(str, steps)))
            else:
                told = any(words in steps[2].output for words in ("Permission denied", "PermissionDenied", "500 Server Error"))
                good = codes[:2] == [0, 0] and 0 not in codes[2:] and told and bed.fingerprint(disk) == before
                report.check(f"{protocol}: a link out of what is granted is not", good, "\n".join(map(str, steps)))
        finally:
            place.close()


# strace -y: `openat(AT_FDCWD</cwd>, "name", flags) = 5</path>`, also split over lines when threads interrupt each other.
OPENED = re.compile(r"\b(?:open|openat|openat2|creat)\(.*?(?P<flags>O_[A-Z_|]+).*\) = \d+<(?P<path>[^>]+)>")
CHANGED = re.compile(r"\b(?P<call>mkdir|mkdirat|unlink|unlinkat|rename|renameat|renameat2|rmdir|link|linkat|symlink|symlinkat|chmod|fchmodat|truncate)"
                     r"\((?P<arguments>.*)\) = 0")
OWN_MEMORY = re.compile(r"/proc/\d+/maps")
NAMED = re.compile(r'(?:(?:\d+|AT_FDCWD)<(?P<directory>[^>]*)>, )?"(?P<name>(?:[^"\\]|\\.)*)"')


def complete_lines(log):
    """The calls of a log of several threads, those that were cut in two put together."""
    waiting = {}
    for line in open(log, errors="replace"):
        thread, _, call = line.rstrip("\n").partition(" ")
        call = call.lstrip()
        if call.endswith("<unfinished ...>"):
            waiting[thread] = call.removesuffix("<unfinished ...>").rstrip()
            continue
        resumed = re.match(r"<\.\.\. \w+ resumed>", call)
        yield waiting.pop(thread, "") + call[resumed.end():] if resumed else call


def within(path, roots):
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def system_calls(protocol, options, report):
    """All that a server does to the file system in a repository's life, as the kernel sees it."""
    if not bed.shutil.which("strace"):
        return report.skip("system calls", "strace is missing (apt-get install strace)")
    for kind in ("--restrict-to-path", "--restrict-to-repository"):
        place = bed.Place("calls", options.keep)
        try:
            root = place.directory("granted")
            repository = root / "repository"
            granted = str(root if kind == "--restrict-to-path" else repository)
            log = place / "calls"
            ours = bed.Pipes(place, "ours", options.server, *DIALECT.get(protocol, []), kind, granted, wrapper=["strace", "-f", "-y", "-qq", "-A", "-o", str(log), "-e", "trace=%file,landlock_restrict_self"])
            run, commands = client_of(protocol, place, ours, repository), COMMANDS[protocol]
            source = place.directory("source")
            (source / "large").write_bytes(os.urandom(3 << 20))
            for number in range(50):
                (source / f"{number}").write_bytes(os.urandom(3000))
            names = ("init", "one", "two", "list", "check", "delete", "compact", "extract two", "destroy", "init")
            outcomes = [run(*commands[name], cwd=source) for name in names]
            failed = [outcome for outcome in outcomes if outcome.code != 0]
            report.check(f"{protocol}: {kind}: a repository's life, from its creation to its deletion and again", not failed, "\n".join(map(str, failed)))
            confinements = sum(1 for call in complete_lines(log) if re.match(r"(landlock_restrict_self|syscall_0x1be)\(.* = 0", call))
            report.check(f"{protocol}: {kind}: each of the processes confined itself", confinements == len(ours.pids()) or not kernel_confines(),
                         f"{confinements} of {len(ours.pids())}")
            opened, changed, stray = 0, 0, []
            # The parent of a repository that did not exist yet is needed to make it.
            writable = [granted, os.path.dirname(granted)] if kind == "--restrict-to-repository" else [granted]
            for call in complete_lines(log):
                if found := OPENED.search(call):
                    opened += 1
                    path, flags = found["path"], found["flags"].split("|")
                    reads = not {"O_WRONLY", "O_RDWR", "O_CREAT"} & set(flags)
                    own = within(path, [granted]) or path in writable or path == options.server
                    # A handle (O_PATH) reads nothing; the kernel's own rules are made of them.
                    if not (own or "O_PATH" in flags or reads and (within(path, SYSTEM) or OWN_MEMORY.fullmatch(path))):
                        stray.append(call)
                elif found := CHANGED.search(call):
                    changed += 1
                    for named in NAMED.finditer(found["arguments"]):
                        path = os.path.normpath(os.path.join(named["directory"] or str(place.path), named["name"]))
                        if not within(path, [granted]):
                            stray.append(call)
            report.check(f"{protocol}: {kind}: nothing outside is opened or changed", not stray and opened > 500 and changed > 100,
                         "\n".join(stray[:20]) or f"only {opened} opened, {changed} changed", f"{opened} opened, {changed} changed")
        finally:
            place.close()


def main():
    parser = bed.parser(__doc__, limit=300)
    parser.add_argument("--protocols", default=",".join(PROTOCOLS), help="(%(default)s)")
    options = bed.parse(parser)
    report = bed.Report()
    for protocol in options.protocols.split(","):
        for part in (admission, swapped_links, swapped_data, links_inside, system_calls):
            part(protocol, options, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
