#!/usr/bin/env python3
"""The units of contrib/systemd: valid, and started by a real systemd.

Proved: `systemd-analyze verify` has nothing to say; a socket that systemd-socket-activate hands over is served; and under
a systemd of its own, in namespaces, with the units as they are (only the account has another name): the socket is there
with its owner and mode before the service is, the first client starts the service, all hardening on, the server says when
it is ready, a stop in the middle of a backup releases the lock and counts as success, and the next client starts it again.

The systemd of its own needs root, and a machine that was not booted by systemd, whose control groups it would share.
"""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

sys.dont_write_bytecode = True
import bed
from operations import ACCOUNT, Bed

FOLDER = bed.ROOT / "contrib/systemd"
NAMES = ("borg-serve.socket", "borg-serve.service")
SOCKET = "/run/borg-serve/borg.sock"


def verify(options, report):
    if not shutil.which("systemd-analyze"):
        return report.skip("units are valid", "systemd-analyze is missing (apt-get install systemd)")
    place = bed.Place("units", options.keep)
    manual = place.directory("man/man1")
    for page in ("borg-serve.1", "borg-serve-listen.1"):
        shutil.copy(bed.ROOT / "man" / page, manual)
    environment = {**os.environ, "MANPATH": f"{manual.parent}:", "XDG_RUNTIME_DIR": str(place.directory("run"))}
    for scope, folder in (("system", FOLDER), ("user", FOLDER / "user")):
        copies = place.directory(scope)
        names = (*NAMES, "borg-serve-listen.service") if scope == "system" else NAMES
        for unit in names:
            text = (folder / unit).read_text().replace("/usr/local/bin/borg-serve", options.server)
            (copies / unit).write_text(re.sub(r"^(User|Group|SocketUser|SocketGroup)=borg$", r"\1=root", text, flags=re.M))
        done = subprocess.run(["systemd-analyze", f"--{scope}", "verify", "--man=" + ("yes" if shutil.which("man") else "no"),
                               *(str(copies / unit) for unit in names)],
                              capture_output=True, text=True, env={**environment, "SYSTEMD_UNIT_PATH": f"{copies}:"})
        complaints = [line for line in done.stderr.splitlines() if "borg-serve" in line]
        report.check(f"units are valid ({scope})", done.returncode == 0 and not complaints, done.stderr)
    place.close()


def serves_sockets(server):
    """Whether this server has `--socket`; those that have not refuse it at once."""
    place = bed.Place("probe")
    process = subprocess.Popen([server, "serve", f"--socket={place / 'probe.sock'}"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    bed.wait_until(lambda: process.poll() is not None or (place / "probe.sock").exists(), 5)
    serves = process.poll() is None
    process.terminate()
    process.communicate()
    place.close()
    return serves


def activation(options, report):
    program = shutil.which("systemd-socket-activate")
    if not program:
        return report.skip("an inherited socket", "systemd-socket-activate is missing (apt-get install systemd)")
    place = bed.Place("units", options.keep)
    path, repository = place / "a.sock", place / "repository"
    process = subprocess.Popen([program, "-l", path, options.server, "serve", "--socket", "--restrict-to-path", place.path],
                               stdin=subprocess.DEVNULL, stderr=open(place / "log", "wb"), start_new_session=True)
    place.undo(lambda: bed.kill_group(process))
    bed.wait_until(path.exists, 10)
    client = bed.Client("2.0.0b18", place, repository=f"socket://{repository}")
    outcomes = [client.run(f"--socket={path}", *words) for words in (["repo-create", "-e", "none"], ["repo-info"])]
    report.check("an inherited socket is served", all(outcome.code == 0 for outcome in outcomes),
                 "\n".join(map(str, outcomes)) + (place / "log").read_text())
    process.terminate()
    code = process.wait(20)
    report.check("SIGTERM ends the service, and leaves the socket to its owner", code == 143 and path.exists(), f"exit code {code}")
    place.close()


# --- a systemd of its own ---------------------------------------------------------------------------------------------


class Manager:
    """systemd as process 1 of a PID namespace, with private mounts and control groups, and our units only."""

    def __init__(self, b):
        self.b = b
        self.group = Path(f"/sys/fs/cgroup/systemd/borg-serve-units-{os.getpid()}")
        units = b.place.directory("units")
        for name in NAMES:
            (units / name).write_text(re.sub(r"^(User|Group|SocketUser|SocketGroup)=borg$", rf"\1={ACCOUNT}",
                                             (FOLDER / name).read_text(), flags=re.M))
        for name in ("bed", "basic", "shutdown", "sockets", "sysinit", "umount"):
            wants = "Requires=borg-serve.socket\n" if name == "bed" else ""
            (units / f"{name}.target").write_text(f"[Unit]\nDescription={name}\nDefaultDependencies=no\n{wants}")
        # There is no journal in there, and clients of sockets do not choose the log level.
        command = re.search(r"^ExecStart=(.*)$", (FOLDER / "borg-serve.service").read_text(), re.M)[1]
        (units / "borg-serve.service.d").mkdir()
        (units / "borg-serve.service.d/log.conf").write_text(
            f"[Service]\nStandardOutput=append:/run/service.log\nStandardError=inherit\nExecStart=\nExecStart={command} --debug\n")
        boot = b.place / "boot"
        place = shlex.quote(str(b.place.path))
        boot.write_text(f"""#!/bin/sh
set -e
umask 022
mount --make-rprivate /
# Devices of its own: systemd changes owners, and moves mounts.
mkdir {place}/dev
mount -t tmpfs -o mode=755 tmpfs {place}/dev
cd {place}/dev
for device in null:3 zero:5 full:7 random:8 urandom:9; do mknod -m 666 ${{device%:*}} c 1 ${{device#*:}}; done
mknod -m 666 tty c 5 0
mknod -m 600 console c 5 1
mkdir shm pts mqueue hugepages
ln -s /proc/self/fd fd
ln -s pts/ptmx ptmx
cd /
mount --move {place}/dev /dev
mount --bind {place}/passwd /etc/passwd
mount --bind {place}/group /etc/group
mount --bind {place}/shadow /etc/shadow
# The paths that the units name.
mount -t tmpfs -o mode=755 tmpfs /usr/local/bin
install -m 755 {place}/bin/borg-serve /usr/local/bin/borg-serve
mount -t tmpfs -o mode=755 tmpfs /srv
install -d -m 700 -o {ACCOUNT} -g {ACCOUNT} /srv/borg
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/systemd/system /run/lock /run/units
cp -R {place}/units/* /run/units/
mount -t tmpfs tmpfs /etc/systemd/system
mount -t tmpfs tmpfs /sys/fs/cgroup
mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
export container=other SYSTEMD_UNIT_PATH=/run/units
exec {MANAGER} --system --unit=bed.target --default-standard-output=inherit --log-target=null --show-status=no
""")
        boot.chmod(0o755)
        self.group.mkdir()
        b.place.undo(self.remove)
        self.log = b.place / "service.log"
        self.process = subprocess.Popen(
            ["sh", "-c", f'echo $$ >{self.group}/cgroup.procs; exec unshare --pid --mount --cgroup --fork --mount-proc --kill-child=KILL "$0"', boot],
            stdin=subprocess.DEVNULL, stdout=open(self.log, "wb"), stderr=subprocess.STDOUT, start_new_session=True)
        if bed.wait_until(lambda: self.process.poll() is not None or self.find() and self.inside(SOCKET).exists(), 20) is None or self.process.poll() is not None:
            raise bed.Failed(f"systemd does not come up: exit code {self.process.poll()}\n{self.log.read_text(errors='replace')}")

    def find(self):
        """The process that is 1 in there, if it runs yet."""
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) == self.process.pid:
                    self.pid = int(pid)
                    return True
            except OSError:
                pass
        return False

    def inside(self, path):
        """A path in there, seen from here."""
        return Path(f"/proc/{self.pid}/root{path}")

    def said(self):
        """What the service has printed."""
        try:
            return self.inside("/run/service.log").read_text(errors="replace")
        except OSError as error:
            return str(error)

    def control(self, *words):
        done = subprocess.run(["nsenter", "-t", str(self.pid), "-m", "-p", "-C", "systemctl", "--no-pager", *words],
                              capture_output=True, text=True, timeout=10)
        return done.stdout + done.stderr

    def show(self, unit):
        lines = self.control("show", "-p", "ActiveState,SubState,Result,ExecMainStatus,MainPID,StatusText", unit).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def remove(self):
        bed.kill_group(self.process)
        self.process.wait()
        # Groups can be removed once their processes are gone, the innermost first.
        for _ in range(50):
            for folder, _, _ in os.walk(self.group, topdown=False):
                try:
                    os.rmdir(folder)
                except OSError:
                    pass
            if not self.group.exists():
                break
            time.sleep(0.05)


MANAGER = next((path for path in ("/lib/systemd/systemd", "/usr/lib/systemd/systemd") if os.path.exists(path)), None)


def missing():
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    if not MANAGER:
        return "systemd is missing (apt-get install systemd)"
    if os.path.exists("/run/systemd/system"):
        return "this machine runs systemd, and a second one would share its control groups; try the units in a container"
    if not os.path.isdir("/sys/fs/cgroup/systemd"):
        return "no control group hierarchy called systemd"


def under_systemd(options, report):
    reason = missing()
    if reason:
        return report.skip("under a real systemd", reason)
    with bed.closing(Bed("under systemd", options, report)) as b:
        gid = next(line for line in (b.place / "passwd").read_text().splitlines() if line.startswith(ACCOUNT)).split(":")[3]
        (b.place / "group").write_text(open("/etc/group").read() + f"{ACCOUNT}:x:{gid}:\n")
        (b.place / "group").chmod(0o644)
        manager = Manager(b)
        wanted = (b.uid, int(gid), 0o660)
        access = lambda: (lambda status: (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)))(manager.inside(SOCKET).stat())
        # systemd makes the socket, and then gives it away.
        b.check("the socket has its owner and mode", bed.wait_until(lambda: access() == wanted, 5) is not None, access())
        b.check("the service waits for a client", manager.show("borg-serve.service")["ActiveState"] == "inactive", manager.show("borg-serve.service"))
        client = bed.Client("2.0.0b18", b.place, repository="socket:///srv/borg/alice")
        run = lambda *words: client.run(f"--socket={manager.inside(SOCKET)}", *words, cwd=b.source)
        created = run("repo-create", "-e", "none")
        shown = manager.show("borg-serve.service")
        b.check("the first client starts it, and is served", created.code == 0 and (shown["ActiveState"], shown["SubState"]) == ("active", "running"),
                f"{created}\n{shown}\n{manager.said()}")
        stored = run("create", "first", "data")
        b.check("a backup", stored.code == 0, stored)
        outside = run("-r", "socket:///tmp/elsewhere", "repo-create", "-e", "none")
        b.check("nothing outside of /srv/borg", outside.code == 83, outside)
        told = run("--debug", "repo-info")
        b.check("the kernel confines it, in spite of the filter of system calls", "Confined by the kernel" in told.output, told)
        again = manager.control("restart", "borg-serve.service")
        stored = run("create", "second", "data")
        b.check("after a restart, too", stored.code == 0 and not again, f"{again}\n{stored}")
        stop_in_a_backup(b, manager, client)
        listed = run("repo-list", "--format", "{archive}{NL}")
        b.check("the next client starts it again", listed.output.split() == ["first", "second"], listed)
        checked = run("check", "--verify-data")
        b.check("check --verify-data finds no fault", checked.code == 0, checked)


def stop_in_a_backup(b, manager, client):
    locks = manager.inside("/srv/borg/alice")
    process = client.start(f"--socket={manager.inside(SOCKET)}", "create", "--stdin-name", "x", "cut-off", "-", stdin=subprocess.PIPE)
    b.place.undo(lambda: bed.kill_group(process))
    if bed.wait_until(lambda: bed.lock_files(locks), 20) is None:
        raise bed.Failed("the client never held a lock")
    began = time.monotonic()
    manager.control("stop", "borg-serve.service")
    shown = manager.show("borg-serve.service")
    b.check("a stop in the middle of a backup counts as success", (shown["ActiveState"], shown["Result"], shown["ExecMainStatus"]) == ("inactive", "success", "143"),
            shown, f"{time.monotonic() - began:.1f} s")
    b.check("no lock is left, and the socket is", not bed.lock_files(locks) and manager.inside(SOCKET).exists(), bed.lock_files(locks))
    bed.kill_group(process)
    process.communicate()


def main():
    options = bed.parse(bed.parser(__doc__, limit=120))
    report = bed.Report()
    verify(options, report)
    if serves_sockets(options.server):
        activation(options, report)
        under_systemd(options, report)
    else:
        report.skip("units are started", "this server has no --socket yet")
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
