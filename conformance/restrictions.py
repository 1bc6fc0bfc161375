#!/usr/bin/env python3
"""--restrict-to-path and --restrict-to-repository against clients and file systems that mean harm.

Proved: which paths are admitted, by both kinds of restriction alone and together; that a path whose links are swapped while
it is checked never leads outside; that links inside a repository are followed only within what is granted; and, by a log of
all system calls under a stock client, that nothing outside the granted roots is opened, made, renamed or removed, but for
what the C library reads to start and to find the host's name. (That the kernel holds where our own check has a hole is a
unit test: `KernelConfinementTests`.)
"""

import os
import re
import sys
import threading

sys.dont_write_bytecode = True
import bed

# Read-only, by the loader and the language's runtime before the program starts, and by the name service.
SYSTEM = ("/sys/devices/system/cpu", "/etc/ld.so.cache", "/etc/ld.so.preload", "/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/hosts", "/etc/host.conf", "/etc/hostname",
          "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/usr/local/lib", "/run/systemd/resolve", "/run/nscd",
          "/run/resolvconf", "/run/NetworkManager/resolv.conf", "/run/systemd/machines", "/var/lib/misc")


def open_once(options, place, path, *arguments, create=False):
    """What one `open` comes to on a server of its own: the repository's id, or the error's class."""
    server = bed.Server(options.server, *arguments, cwd=place.path)
    try:
        answer = server.call("open", path=path, create=create, exclusive=True, lock_wait=5)
        if answer.failed:
            return answer.error
        server.call("close")
        return answer.value
    finally:
        server.end()


def admission(options, report):
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
        foreign = open_once(options, place, str(root / "other/theirs"), create=True)
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
            created = open_once(options, place, target, *arguments, create=True)
            opened = open_once(options, place, target, *arguments)
            shown = " ".join(arguments).replace(str(root), "")
            good = isinstance(created, bytes) and created == opened if admitted else created == opened == "PathNotAllowed"
            report.check(f"{shown}: {name!r} is {'admitted' if admitted else 'refused'}", good, f"create: {created!r}, open: {opened!r}")
        report.check("nothing was made outside", sorted(os.listdir(root / "other")) == ["theirs"] and os.listdir(root / "jail2") == ["h"],
                     sorted(os.listdir(root / "other")))
        report.check("the foreign repository is what it was", open_once(options, place, str(root / "other/theirs")) == foreign)

        server = bed.Server(options.server, path, str(root / "jail"), "--debug", cwd=place.path)
        first = server.call("open", path=str(root / "jail/a"), exclusive=True, lock_wait=5)
        second = server.call("open", path=str(root / "other/theirs"), exclusive=True, lock_wait=5)
        report.check("a second open is held against the restriction, too", not first.failed and second.error == "PathNotAllowed", second)
        report.check("and leaves the first one open", server.call("info").value["id"] == first.value)
        told = [record["msg"] for record in server.take_logs() if "onfined by the kernel" in record["msg"]]
        report.check("--debug says how the kernel confines", len(told) == 1, told)
        server.end()
    finally:
        place.close()


def swapped_links(options, report):
    """A path that somebody else changes all the time between one inside and one outside."""
    for what in ("last", "middle"):
        place = bed.Place("swapped", options.keep)
        try:
            root, outside = place.directory("granted"), place.directory("outside")
            (root / "real").mkdir()
            inside_id = open_once(options, place, str(root / "real/r"), create=True)
            outside_id = open_once(options, place, str(outside / "r"), create=True)
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
                server = bed.Server(options.server, "--restrict-to-path", str(root), cwd=place.path)
                path = str(name if what == "last" else name / "r")
                for _ in range(400):
                    answer = server.call("open", path=path, lock=False, lock_wait=1)
                    outcome = answer.error if answer.failed else {inside_id: "inside", outside_id: "OUTSIDE"}.get(answer.value, "unknown")
                    outcomes[outcome] = outcomes.get(outcome, 0) + 1
                server.end()
            finally:
                stop.set()
                flipper.join()
            proved = outcomes.get("inside", 0) > 0 and outcomes.get("PathNotAllowed", 0) > 0 and flips[0] > 400
            report.check(f"swapped links, {what} element: never outside", proved and not set(outcomes) - {"inside", "PathNotAllowed", "DoesNotExist"},
                         f"{outcomes}, {flips[0]} changes", f"{outcomes}, {flips[0]} changes")
            staged = [name for name in os.listdir(outside / "r") if name.endswith(".tmp")]
            report.check(f"swapped links, {what} element: nothing was left outside", not bed.lock_files(outside / "r") and not staged)
        finally:
            place.close()


def links_inside(options, report):
    """`data/` on another disk: followed where that is granted, and not followed where it is not."""
    for granted in (True, False):
        place = bed.Place("links", options.keep)
        try:
            root = place.directory("granted")
            disk = place.directory("granted/disk" if granted else "disk")
            repository = root / "repository"
            ours = bed.Pipes(place, "ours", options.server, "--restrict-to-path", str(root))
            client = bed.Client(bed.ORIGINAL_VERSION, place, repository=ours.url(repository), rsh=ours.rsh)
            source = place.directory("source")
            for number in range(20):
                (source / f"{number}").write_bytes(os.urandom(5000))
            expected = bed.fingerprint(source)
            steps = [client.run("repo-create", "-e", "none"), client.run("create", "one", ".", cwd=source)]
            os.rename(repository / "data", disk / "data")
            (repository / "data").symlink_to(disk / "data")
            before = bed.fingerprint(disk)
            (source / "new").write_bytes(os.urandom(5000))
            steps.append(client.run("create", "two", ".", cwd=source))
            target = place.directory("target")
            steps.append(client.run("extract", "one", cwd=target))
            steps.append(client.run("check"))
            codes = [step.code for step in steps]
            if granted:
                good = codes == [0] * 5 and bed.fingerprint(target) == expected and bed.fingerprint(disk) != before
                report.check("a link to what is granted is followed", good, "\n".join(map(str, steps)))
            else:
                told = "Permission denied" in steps[2].output
                good = codes[:2] == [0, 0] and 0 not in codes[2:] and told and bed.fingerprint(disk) == before
                report.check("a link out of what is granted is not", good, "\n".join(map(str, steps)))
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


def system_calls(options, report):
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
            ours = bed.Pipes(place, "ours", options.server, kind, granted, wrapper=["strace", "-f", "-y", "-qq", "-A", "-o", str(log), "-e", "trace=%file"])
            client = bed.Client(bed.ORIGINAL_VERSION, place, repository=ours.url(repository), rsh=ours.rsh)
            source = place.directory("source")
            (source / "large").write_bytes(os.urandom(3 << 20))
            for number in range(50):
                (source / f"{number}").write_bytes(os.urandom(3000))
            commands = [("repo-create", "-e", "none"), ("create", "one", "."), ("create", "two", "."), ("repo-list",), ("check",),
                        ("delete", "one"), ("compact",), ("extract", "two", "--dry-run"), ("repo-delete",), ("repo-create", "-e", "none")]
            outcomes = [client.run(*command, cwd=source) for command in commands]
            failed = [outcome for outcome in outcomes if outcome.code != 0]
            report.check(f"{kind}: a repository's life, from its creation to its deletion and again", not failed, "\n".join(map(str, failed)))
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
            report.check(f"{kind}: nothing outside is opened or changed", not stray and opened > 500 and changed > 100,
                         "\n".join(stray[:20]) or f"only {opened} opened, {changed} changed", f"{opened} opened, {changed} changed")
        finally:
            place.close()


def main():
    options = bed.parse(bed.parser(__doc__, limit=300))
    report = bed.Report()
    for part in (admission, swapped_links, links_inside, system_calls):
        part(options, report)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
