#!/usr/bin/env python3
"""The administrator's chapter, tried: what docs/operations.md and the man page tell people to write, on a real sshd.

Proved, with stock clients of several versions: each line for authorized_keys that stands there does what is said of it,
permission modes included; of a client's own command only log level, debug topics and lock wait count; another program is
refused; lines by `authorize` work, also for odd paths; with a minimal login shell nothing of the account's start-up files
or of the client's environment is run; when the network is cut in the middle of a backup, either side gives up by its
keep-alive settings, the server ends by itself, and the next client gets the lock; units for systemd are valid, and start;
completions complete.

As root, the sshd runs in a mount namespace with an account of its own in it, whose login shell is /bin/sh; the cut needs
network namespaces. Without root these are skipped, and the rest runs as the user who runs this.
"""

import functools
import itertools
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
import bed

scenario = bed.Scenarios()
VERSIONS = ["2.0.0b16", "2.0.0b18", "2.0.0b21"]
# Lines with options of Borg 1.x are tried with a client of that.
BORG1 = "1.4.5"
ACCOUNT = "borg-under-test"
UNSUPPORTED = "is not supported by this version yet"


# --- what is written --------------------------------------------------------------------------------------------------


class Recipe:
    """A line for authorized_keys as it stands in a document."""

    def __init__(self, source, line):
        self.source = source
        match = re.fullmatch(r'command="([^"]*)"(,\S*) (?:ssh-\S+ AAAA\S*|ssh-\S+ \S*)(?: (\S+))?', line)
        if not match:
            raise bed.Failed(f"{source}: not understood: {line}")
        self.command, self.directives = match[1], match[2]

    def option(self, name):
        match = re.search(rf"--{name}[= ](\S+)", self.command)
        return match[1] if match else None

    def on(self, root, server):
        """The command with our places in it."""
        command = re.sub(r"(?<![\w/])(?:/usr/local/bin/)?borg-serve(?= serve)", server, self.command)
        return command.replace("/srv/borg", str(root))


def recipes():
    """Every line for authorized_keys of the documents, each command once."""
    found = {}
    for name in ("docs/operations.md", "README.md", "man/borg-serve.1"):
        for line in (bed.ROOT / name).read_text().splitlines():
            line = line.removeprefix(".Dl ")
            if not line.startswith('command="') or "..." in line.split('",')[0]:
                continue
            line = line.replace("\\-", "-").replace("\\(aq", "'").replace("…", "")
            recipe = Recipe(name, line.replace("AAAA...", "AAAA"))
            found.setdefault(re.sub(r"/usr/local/bin/", "", recipe.command), recipe)
    return list(found.values())


def sshd_block():
    """The `Match` block for sshd_config of docs/operations.md, for our account."""
    text = (bed.ROOT / "docs/operations.md").read_text()
    block = re.search(r"^Match User borg\n(?:  .*\n)+", text, re.M)[0]
    return block.replace("User borg", f"User {ACCOUNT}").splitlines()


# --- the bed ----------------------------------------------------------------------------------------------------------


class Bed:
    """A home for the backup account, its sshd, and clients."""

    def __init__(self, name, options, report):
        self.name, self.options, self.report = name, options, report
        self.rng = random.Random(f"{options.seed} {name}")
        self.place = bed.Place("operations", options.keep)
        # The account may not be able to look into the checkout.
        self.server = str(self.place.directory("bin") / "borg-serve")
        shutil.copyfile(options.server, self.server)
        for path, mode in ((self.place.path / "bin", 0o755), (self.server, 0o755)):
            os.chmod(path, mode)
        self.home = self.place.directory("home-of-borg")
        self.root = self.place.directory("home-of-borg/repositories")
        self.source = self.place.directory("source")
        (self.source / "data").write_bytes(self.rng.randbytes(300_000))
        self.isolated = os.geteuid() == 0
        self.user, self.inside = None, []
        if self.isolated:
            self.user, self.inside = ACCOUNT, [str(self._mask_accounts())]
            self.own()
        self.clients = {version: bed.Client(version, self.place, home=f"home-{version}") for version in [*VERSIONS, BORG1]}

    def _mask_accounts(self):
        """A program that runs another one where /etc/passwd and /etc/shadow have one more account; nowhere else they do."""
        taken = {line.split(":")[2] for line in open("/etc/passwd")}
        self.uid = next(number for number in range(60101, 60999) if str(number) not in taken)
        (self.place / "passwd").write_text(
            open("/etc/passwd").read() + f"{ACCOUNT}:x:{self.uid}:{self.uid}::{self.home}:/bin/sh\n")
        (self.place / "shadow").write_text(open("/etc/shadow").read() + f"{ACCOUNT}:*:20000::::::\n")
        (self.place / "passwd").chmod(0o644)
        script = self.place / "with-account"
        script.write_text(
            "#!/bin/sh\nexec unshare --mount --propagation private sh -ec '"
            f"mount --bind {self.place.path}/passwd /etc/passwd; mount --bind {self.place.path}/shadow /etc/shadow; exec \"$@\"' sh \"$@\"\n")
        script.chmod(0o755)
        return script

    def own(self):
        """The home, and everything in it, is the account's."""
        if self.isolated:
            subprocess.run(["chown", "-R", f"{self.uid}:{self.uid}", self.home], check=True)

    def sshd(self, forced, **more):
        inside = [*more.pop("namespace", []), *self.inside]
        self.ssh = bed.SSHD(self.place, forced, inside=inside, user=self.user, **more)
        return self.ssh

    def run(self, key, repository, *arguments, version="2.0.0b18", rsh=None, cwd=None, options=(), **more):
        """A client's command on a repository, over ssh with a key."""
        outcome = self.clients[version].run("-r", self.ssh.url(repository), *options, *arguments, cwd=cwd or self.source,
                                            environment={"BORG_RSH": rsh or self.ssh.rsh(key), **more.pop("environment", {})}, **more)
        outcome.command = [version, *outcome.command]
        return outcome

    def must1(self, key, repository, *arguments, succeeds=True, cwd=None):
        """A command of a Borg 1.x client, which finds its repository in the environment; it has to succeed, or not to."""
        environment = {"BORG_RSH": self.ssh.rsh(key), "BORG_REPO": f"ssh://{self.ssh.address}{repository}"}
        outcome = self.clients[BORG1].run(*arguments, cwd=cwd or self.source, environment=environment)
        if (outcome.code == 0) != succeeds:
            raise bed.Failed(str(outcome))
        return outcome

    def must(self, *arguments, **more):
        outcome = self.run(*arguments, **more)
        if outcome.code != 0:
            raise bed.Failed(str(outcome))
        return outcome

    def ssh_command(self, key, *words):
        """What ssh itself gets for a command: (exit code, output, errors)."""
        done = subprocess.run(["ssh", "-F", self.ssh.directory / f"{key}.config", "host", *words],
                              input=b"", capture_output=True, timeout=30)
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    def servers(self):
        """Processes that run the server under test, started through this bed."""
        return [int(pid) for pid in os.listdir("/proc") if pid.isdigit() and executable(pid) == self.server]

    def check(self, what, condition, detail="", note=""):
        return self.report.check(f"{self.name}: {what}", condition, detail, note)

    def close(self):
        for pid in self.servers():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.place.close()


def executable(pid):
    try:
        return os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return None


# --- lines for authorized_keys ----------------------------------------------------------------------------------------


def backup_and_restore(b, key, repository, version):
    """Creates a repository, backs up, restores."""
    b.must(key, repository, "repo-create", "-e", "none", version=version)
    b.must(key, repository, "create", "first", "data", version=version)
    target = b.place.directory("restored")
    b.must(key, repository, "extract", "first", cwd=target, version=version)
    same = bed.fingerprint(target) == bed.fingerprint(b.source)
    shutil.rmtree(target)
    return same


def refused_path(outcome):
    return outcome.code == 83 and "not allowed" in outcome.output


@scenario
def written_lines(options, report):
    """Each line of the documents, behind the sshd_config of docs/operations.md."""
    lines = recipes()
    with bed.closing(Bed("lines", options, report)) as b:
        forced = {f"key{number}": recipe.on(b.root / f"key{number}", b.server) for number, recipe in enumerate(lines)}
        forced["open"] = f"{b.server} serve"
        b.sshd(forced, blocks=sshd_block() if b.isolated else ())
        for number, recipe in enumerate(lines):
            key, version = f"key{number}", VERSIONS[number % len(VERSIONS)]
            is_borg1 = re.search(r"--(append-only|storage-quota)\b", recipe.command)
            name = f"{recipe.source}: {re.sub('.*borg-serve serve ', '', recipe.command)} ({BORG1 if is_borg1 else version})"
            try:
                if is_borg1:
                    try_line_of_borg1(b, key, recipe, name, version)
                else:
                    try_line(b, key, recipe, name, version)
            except bed.Failed as error:
                b.check(name, False, error)
        what_clients_ask_for(b, "key0", lines[0])


def try_line(b, key, recipe, name, version):
    mode = recipe.option("permissions") or "all"
    path = recipe.option("restrict-to-path")
    repository = (recipe.option("restrict-to-repository") or f"{path or '/srv/borg/any'}/repo").replace("/srv/borg", str(b.root / key))
    outside = b.root.parent / "elsewhere"
    if mode != "all":
        permissions(b, key, repository, mode, name, version)
    else:
        b.check(f"{name}: backup and restore", backup_and_restore(b, key, repository, version))
    if path or recipe.option("restrict-to-repository"):
        outcome = b.run(key, outside, "repo-create", "-e", "none", version=version)
        b.check(f"{name}: nothing outside", (refused_path(outcome) or UNSUPPORTED in outcome.output) and not outside.exists(), outcome)
    if recipe.option("restrict-to-repository"):
        outcome = b.run(key, f"{repository}/below", "repo-create", "-e", "none", version=version)
        b.check(f"{name}: nothing below", refused_path(outcome) or UNSUPPORTED in outcome.output, outcome)
    variable = re.match(r"BORG_HOST_ID=(\S+) ", recipe.command)
    if variable:
        shown = b.must(key, repository, "with-lock", *show_lock(repository), version=version).output
        b.check(f"{name}: the variable reaches the server", f'"{variable[1]}"' in shown, shown)


def try_line_of_borg1(b, key, recipe, name, version):
    """A line with options of Borg 1.x: its clients are served, clients of Borg 2 refused."""
    repository = recipe.option("restrict-to-repository").replace("/srv/borg", str(b.root / key))
    run = functools.partial(b.must1, key, repository)
    os.makedirs(os.path.dirname(repository), exist_ok=True)
    b.own()
    run("init", "-e", "repokey")
    run("create", "::first", "data")
    target = b.place.directory("restored")
    run("extract", "::first", cwd=target)
    b.check(f"{name}: backup and restore", bed.fingerprint(target) == bed.fingerprint(b.source))
    shutil.rmtree(target)
    stored = lambda: {path.name for path in (b.place.path / repository / "data").rglob("*") if path.is_file()}
    quota = recipe.option("storage-quota")
    if quota:
        config = (b.place.path / repository / "config").read_text()
        number = int(quota.removesuffix("G")) * 10**9
        b.check(f"{name}: the quota is the new repository's", f"storage_quota = {number}\n" in config, config)
    else:
        before = stored()
        run("delete", "::first")
        run("compact")
        b.check(f"{name}: nothing is removed", before <= stored(), sorted(before - stored()))
        lines = (b.place.path / repository / "transactions").read_text()
        b.check(f"{name}: transactions are noted", re.match(r"transaction \d+, UTC time \d{4}-\d\d-\d\dT", lines), lines)
        outcome = run("key", "change-passphrase", succeeds=False)
        b.check(f"{name}: the key stays", "not permitted with --append-only" in outcome.output, outcome)
        run("delete", "--force", succeeds=False)
    outcome = b.run(key, f"{repository}", "repo-list", version=version)
    # The quota holds for repositories of Borg 2, too; this one is none.
    reason = "is for repositories of Borg 1.x" if "--append-only" in recipe.command else "is a repository of Borg 1.x"
    b.check(f"{name}: nothing for Borg 2", outcome.code != 0 and reason in outcome.output, outcome)


def show_lock(repository):
    """A command for the client's machine, which is also the server's: prints the lock that the client holds."""
    return ["find", f"{repository}/locks", "-type", "f", "-exec", "cat", "{}", "+"]


def permissions(b, key, repository, mode, name, version):
    """What clients can and cannot do in a mode, on a repository with an archive that somebody else has made."""
    run = lambda *arguments, **more: b.run(key, repository, *arguments, version=version, **more)
    b.must("open", repository, "repo-create", "-e", "none", version=version)
    b.must("open", repository, "create", "first", "data", version=version)
    stored = lambda: bed.fingerprint(b.place.path / repository / "data")
    before = stored()
    probe = run("repo-info") if mode != "write-only" else run("create", "probe", "data")
    if UNSUPPORTED in probe.output:
        b.report.skip(f"{b.name}: {name}", f"the mode {mode} {UNSUPPORTED}")
        return
    b.check(f"{name}: the repository opens", probe.code == 0, probe)
    created = run("create", "second", "data")
    extracted = run("extract", "--dry-run", "first")
    if mode == "read-only":
        b.check(f"{name}: no backup", created.code != 0, created)
        b.check(f"{name}: restores", extracted.code == 0, extracted)
    else:
        b.check(f"{name}: backups go on", created.code == 0, created)
        b.check(f"{name}: {'no restore' if mode == 'write-only' else 'restores'}", (extracted.code != 0) == (mode == "write-only"), extracted)
    deleted, destroyed = run("delete", "first"), run("repo-delete")
    compacted = run("compact")
    b.check(f"{name}: no archive is deleted, no repository destroyed", deleted.code != 0 and destroyed.code != 0, f"{deleted}\n{destroyed}")
    lost = {path for path, entry in before.items() if stored().get(path) != entry}
    b.check(f"{name}: no stored object is gone or changed", not lost, f"{sorted(lost)[:5]}\n{compacted}")
    listed = b.must("open", repository, "repo-list", "--format", "{archive}{NL}", version=version).output.split()
    b.check(f"{name}: the first archive is still there", "first" in listed, listed)


def what_clients_ask_for(b, key, recipe):
    """Of the client's command, only log level, debug topics and lock wait count."""
    path = (recipe.option("restrict-to-path") or recipe.option("restrict-to-repository")).replace("/srv/borg", str(b.root / key))
    repository = f"{path}/repo" if recipe.option("restrict-to-path") else path
    greedy = "BORG_HOST_ID=intruder BORG_REPO_PERMISSIONS=all borg --restrict-to-path=/ --permissions=all --umask=0 --socket=/tmp/x"
    outcome = b.run(key, b.root.parent / "elsewhere", "repo-create", "-e", "none", options=("--remote-path", greedy))
    b.check("a client cannot give itself more", refused_path(outcome), outcome)
    shown = b.run(key, repository, "with-lock", *show_lock(repository), options=("--remote-path", greedy))
    b.check("its variables are dropped", shown.code == 0 and "hostid" in shown.output and "intruder" not in shown.output, shown)
    quiet, loud = b.must(key, repository, "repo-info"), b.must(key, repository, "repo-info", options=("--debug",))
    topic = "Resolving repository path"
    b.check("it chooses the log level", topic not in quiet.output and topic in loud.output, loud)
    for words in (["id"], ["sh", "-c", "id"], ["/usr/lib/openssh/sftp-server"], ["borg-serve", "authorize", "--unrestricted", "/etc/passwd"],
                  ["borg", "--help"], ["borg serve; id"], [f"{b.server} serve --restrict-to-path / && id"]):
        code, output, errors = b.ssh_command(key, *words)
        b.check(f"refused: {shlex.join(words)}", code == 2 and not output and "this key runs borg serve only" in errors,
                f"exit code {code}\n{output}\n{errors}")
    code, output, errors = b.ssh_command(key)
    b.check("who asks for a shell gets the server, which has nothing to do", code == 0 and not output, f"exit code {code}\n{output}\n{errors}")
    done = subprocess.run(["sftp", "-q", "-b", "-", "-F", b.ssh.directory / f"{key}.config", "host"], input=b"ls /\n", capture_output=True, timeout=30)
    b.check("refused: sftp", done.returncode != 0 and b"etc" not in done.stdout, done)


@scenario
def authorized(options, report):
    """Lines made by `authorize`, for keys of each type and for odd paths."""
    names = {"ed25519": "alice", "ecdsa": "it's \"quoted\" \\ $HOME `id` $(id) ü #1, *", "rsa": "-leading --permissions=all"}
    with bed.closing(Bed("authorize", options, report)) as b:
        directory = b.place.directory("sshd")
        for kind in names:
            subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-C", f"{kind} \"key\"", "-f", directory / kind], check=True)

        def made(kind, option):
            repository = b.root / names[kind]
            command = [b.server, "authorize", option, str(repository), directory / f"{kind}.pub"]
            return lambda public: subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout

        forced = {kind: made(kind, "--restrict-to-repository") for kind in names}
        b.sshd(forced)
        for kind, version in zip(names, VERSIONS):
            b.check(f"{kind}, {names[kind]!r}: backup and restore", backup_and_restore(b, kind, b.root / names[kind], version))
            outcome = b.run(kind, b.root / "other", "repo-create", "-e", "none", version=version)
            b.check(f"{kind}: nothing else", refused_path(outcome), outcome)
        private = subprocess.run([b.server, "authorize", "--unrestricted", directory / "ed25519"], capture_output=True, text=True)
        b.check("a private key is refused", private.returncode == 2 and not private.stdout and "private key" in private.stderr, private)
        both = (directory / "ed25519.pub").read_bytes() + (directory / "rsa.pub").read_bytes()
        several = subprocess.run([b.server, "authorize", "--unrestricted", "-"], input=both, capture_output=True)
        b.check("two keys are refused", several.returncode == 2 and not several.stdout, several)


@scenario
def login_shell(options, report):
    """Start-up files of the account, written by somebody hostile, and variables sent by the client: none is run."""
    with bed.closing(Bed("login shell", options, report)) as b:
        if not b.isolated:
            return report.skip("login shell", "needs root, for an account of its own")
        marker = b.home / "was-run"
        hostile = f"echo noise; touch {marker}\n"
        for name in (".profile", ".bashrc", ".bash_profile", ".bash_login", ".shinit", ".ssh/rc", ".ssh/environment", ".kshrc", ".zshenv"):
            (b.home / name).parent.mkdir(exist_ok=True)
            (b.home / name).write_text(hostile if not name.endswith("environment") else f"ENV={b.home}/.shinit\nBASH_ENV={b.home}/.shinit\n")
            (b.home / name).chmod(0o755)
        b.own()
        b.sshd({"key": f"{b.server} serve --restrict-to-path {b.root}"})
        sent = [f"SetEnv {name}={b.home}/.shinit" for name in ("ENV", "BASH_ENV")]
        b.ssh.configure("key", "key", ACCOUNT, sent[0] + f" BASH_ENV={b.home}/.shinit BORG_HOST_ID=intruder")
        for version in VERSIONS:
            b.check(f"backup and restore ({version})", backup_and_restore(b, "key", b.root / version, version))
        b.check("nothing of it was run", not marker.exists(), sorted(os.listdir(b.home)))


# --- the cut network --------------------------------------------------------------------------------------------------


class Network:
    """Two network namespaces and a cable between them: the client's, at 10.99.0.1, and the server's, at 10.99.0.2."""

    numbers = itertools.count()

    def __init__(self, place):
        number = next(self.numbers)
        self.client, self.server = (f"borg{os.getpid()}{side}{number}" for side in "cs")
        self._interfaces = [f"b{os.getpid()}{side}{number}" for side in "cs"]
        place.undo(self.remove)
        for name in (self.client, self.server):
            self._ip("netns", "add", name)
        self._ip("link", "add", self._interfaces[0], "type", "veth", "peer", "name", self._interfaces[1])
        for name, interface, address in zip((self.client, self.server), self._interfaces, ("10.99.0.1/24", "10.99.0.2/24")):
            self._ip("link", "set", interface, "netns", name)
            self._ip("-n", name, "addr", "add", address, "dev", interface)
            for device in ("lo", interface):
                self._ip("-n", name, "link", "set", device, "up")

    def _ip(self, *words):
        subprocess.run(["ip", *words], check=True, capture_output=True)

    def cut(self, broken=True):
        self._ip("-n", self.server, "link", "set", self._interfaces[1], "down" if broken else "up")

    def remove(self):
        for name in (self.client, self.server):
            pids = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split()
            for pid in pids:
                os.kill(int(pid), signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)

    @staticmethod
    def missing():
        if os.geteuid() != 0:
            return "needs root, for network namespaces"
        if not shutil.which("ip"):
            return "ip is missing (apt-get install iproute2)"
        name = f"borg{os.getpid()}p{next(Network.numbers)}"
        probe = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
        subprocess.run(["ip", "netns", "del", name], capture_output=True)
        return f"no network namespaces: {probe.stderr.strip()}" if probe.returncode else None


class Cut:
    """A backup that holds the lock, over a network that can be cut."""

    def __init__(self, b, *, server_settings=(), client_settings=()):
        self.b = b
        self.network = Network(b.place)
        b.sshd({"key": f"{b.server} serve --restrict-to-path {b.root}"}, address="10.99.0.2",
               namespace=["ip", "netns", "exec", self.network.server], settings=server_settings)
        b.ssh.configure("far", "key", ACCOUNT, *client_settings)
        self.far = f"ip netns exec {self.network.client} {b.ssh.rsh('far')}"
        # A second client, on the other side of the cut.
        self.near = f"ip netns exec {self.network.server} {b.ssh.rsh('key')}"
        self.repository = b.root / "repository"
        b.must("key", self.repository, "repo-create", "-e", "none", rsh=self.near)

    def start_backup(self):
        """A client from afar, in the middle of `create`: it has stored something, and gets more data as long as it takes any."""
        log = open(self.b.place / "far.log", "wb")
        client = self.b.clients["2.0.0b18"].start(
            "-r", self.b.ssh.url(self.repository), "create", "--stdin-name", "x", "cut-off", "-", stdin=subprocess.PIPE,
            stdout=log, environment={"BORG_RSH": self.far})
        self.b.place.undo(lambda: bed.kill_group(client))
        threading.Thread(target=self._feed, args=[client], daemon=True).start()
        stored = lambda: sum(len(names) for _, _, names in os.walk(self.repository / "data")) > 2
        bed.wait_until(lambda: client.poll() is not None or bed.lock_files(self.repository) and stored(), 30)
        if client.poll() is not None or not stored():
            raise bed.Failed(f"the client from afar stores nothing: exit code {client.poll()}\n{self.said()}")
        return client

    def _feed(self, client):
        try:
            client.stdin.write(self.b.rng.randbytes(12 << 20))
            while True:
                client.stdin.write(self.b.rng.randbytes(1 << 20))
                client.stdin.flush()
                time.sleep(0.3)
        except (BrokenPipeError, ValueError):
            pass

    def said(self):
        """What the client from afar has printed."""
        return (self.b.place / "far.log").read_text(errors="replace")

    def near_client(self, *arguments, wait):
        return self.b.run("key", self.repository, *arguments, rsh=self.near, options=("--lock-wait", str(wait)))


def no_lock(cut):
    return not bed.lock_files(cut.repository) and not bed.staged_files(cut.repository)


def needs_network(play):
    """A scenario that is skipped where no network can be made and cut."""

    @functools.wraps(play)
    def guarded(options, report):
        reason = Network.missing()
        return report.skip(play.__name__, reason) if reason else play(options, report)

    return guarded


@scenario
@needs_network
def sshd_gives_up(options, report):
    """ClientAlive…: sshd ends, the server with it, and a client that waits gets the lock."""
    with bed.closing(Bed("sshd gives up", options, report)) as b:
        cut = Cut(b, server_settings=["ClientAliveInterval 1", "ClientAliveCountMax 3"])
        cut.start_backup()
        outcome = cut.near_client("compact", wait=1)
        b.check("before the cut the lock is held", outcome.code == 73, outcome)
        cut.network.cut()
        began = time.monotonic()
        outcome = cut.near_client("compact", wait=60)
        b.check("a second client that waits gets the lock", outcome.code == 0, outcome, f"{time.monotonic() - began:.0f} s after the cut")
        b.check("the server has ended by itself", bed.wait_until(lambda: not b.servers(), 5) is not None, b.servers())
        b.check("no lock and no unfinished file is left", no_lock(cut), bed.lock_files(cut.repository))
        outcome = cut.near_client("create", "second", "data", wait=5)
        b.check("and backs up", outcome.code == 0, outcome)
        listed = cut.near_client("repo-list", "--format", "{archive}{NL}", wait=5)
        b.check("the archive that was cut off does not exist", listed.output.split() == ["second"], listed)
        checked = cut.near_client("check", "--verify-data", wait=5)
        b.check("check --verify-data finds no fault", checked.code == 0, checked)


@scenario
@needs_network
def client_gives_up(options, report):
    """ServerAlive…: the client's ssh ends, and with it the client; once the network is back the server learns of it."""
    with bed.closing(Bed("the client gives up", options, report)) as b:
        cut = Cut(b, server_settings=["ClientAliveInterval 0"], client_settings=["ServerAliveInterval 1", "ServerAliveCountMax 3"])
        client = cut.start_backup()
        cut.network.cut()
        took = bed.wait_until(lambda: client.poll() is not None, 40)
        b.check("the client ends, and says that the connection is lost", took is not None and client.returncode in (80, 81, 87) and "onnection" in cut.said(),
                f"exit code {client.poll()}\n{cut.said()}", f"{took or 0:.0f} s after the cut, exit code {client.poll()}")
        b.check("sshd, which does not ask, still believes in it", bool(b.servers()) and bool(bed.lock_files(cut.repository)))
        cut.network.cut(False)
        took = bed.wait_until(lambda: not b.servers(), 60)
        b.check("when the network is back the server ends", took is not None, b.servers(), f"{took or 0:.0f} s")
        outcome = cut.near_client("compact", wait=5)
        b.check("the lock is free", outcome.code == 0 and no_lock(cut), outcome)


# --- completions, the man page ----------------------------------------------------------------------------------------


@scenario
def papers(options, report):
    """The man page and the completions, as far as the tools that read them are here."""
    page = bed.ROOT / "man/borg-serve.1"
    if shutil.which("mandoc"):
        done = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
        report.check("the man page is clean", done.returncode == 0, done.stdout + done.stderr)
    else:
        report.skip("the man page is clean", "mandoc is missing (apt-get install mandoc)")
    completions(options, report)
    done = subprocess.run([options.server, "serve"], stdin=subprocess.DEVNULL, capture_output=True,
                          env={**os.environ, "SSH_ORIGINAL_COMMAND": "borg serve"})
    report.check("a forced command can be tried by hand", done.returncode == 0 and not done.stdout + done.stderr, done)


COMPLETED = {
    "borg-serve ": {"serve", "authorize"},
    "borg-serve serve --permissions=": {"all", "no-delete", "write-only", "read-only"},
    "borg-serve authorize --un": {"--unrestricted"},
    "borg-serve serve --max": {"--max-connections"},
    "borg-serve serve --restrict-to-r": {"--restrict-to-repository"},
}


def completions(options, report):
    for shell, complete in (("bash", bash_completes), ("fish", fish_completes), ("zsh", None)):
        if not shutil.which(shell):
            report.skip(f"{shell} completes", f"{shell} is missing (apt-get install {shell})")
        elif complete is None:
            done = subprocess.run(["zsh", "-n", bed.ROOT / "completions/_borg-serve"], capture_output=True, text=True)
            report.check("zsh reads its completions", done.returncode == 0, done.stderr)
        else:
            wrong = {line: found for line, wanted in COMPLETED.items() if not wanted <= (found := complete(line))}
            report.check(f"{shell} completes", not wrong, wrong)


def bash_completes(line):
    words = line.replace("=", " = ").split(" ")
    script = 'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _borg_serve; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", script, "bash", bed.ROOT / "completions/borg-serve.bash", *words], capture_output=True, text=True)
    return set(done.stdout.split())


def fish_completes(line):
    script = f"source {shlex.quote(str(bed.ROOT / 'completions/borg-serve.fish'))}; complete -C {shlex.quote(line)}"
    done = subprocess.run(["fish", "--no-config", "-c", script], capture_output=True, text=True)
    offered = {entry.split("\t")[0] for entry in done.stdout.splitlines()}
    return offered | {entry.partition("=")[2] for entry in offered}


def main():
    parser = bed.parser(__doc__, limit=600)
    scenario.add_argument(parser)
    options = bed.parse(parser)
    report = bed.Report()
    # Most of the time is spent waiting for logins and clocks, and no scenario knows of another.
    bed.run_beside_each_other([functools.partial(play, options, report) for play in scenario.chosen(options)], threads=3)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
