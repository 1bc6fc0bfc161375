"""What the measuring programs share: goals and tables, a server fed with a stream, its time and memory, the page cache."""

import fcntl
import os
import statistics
import subprocess
import sys
import threading
import time

import bed

MIB = 1 << 20


# --- figures ----------------------------------------------------------------------------------------------------------


class Goal:
    """`times`: original / ours at least; `limit`: ours / limit at most; `most`: ours at most."""

    def __init__(self, times=None, limit=None, most=None):
        self.parts = [(f"≥ {times} ×", lambda first, ours, best: first and first / ours / times) for _ in [0] if times]
        self.parts += [(f"≤ {limit} × limit", lambda first, ours, best: best and limit * best / ours) for _ in [0] if limit]
        self.parts += [(f"≤ {most:g}", lambda first, ours, best: most / ours) for _ in [0] if most]

    def __str__(self):
        return ", ".join(text for text, _ in self.parts)

    def verdict(self, *figures):
        margins = [margin(*figures) for _, margin in self.parts]
        known = [margin for margin in margins if margin]
        if not known:
            return ""
        return "yes" if min(known) >= 1 else "nearly" if min(known) > 0.8 else "**no**"


class Figures:
    """The rows of one table: what was measured of the original, of ours, and of the machine (`limit`)."""

    def __init__(self, servers, judged):
        self.servers, self.judged = servers, judged
        self.values, self.goals = {}, {}  # values: (row, server or "limit"): [numbers]

    def note(self, row, server, value, goal=None):
        self.values.setdefault((row, server), []).append(value)
        if goal or row not in self.goals:
            self.goals[row] = goal or Goal()

    def table(self):
        versions = {name: version_of(command) for name, command in self.servers.items()}
        lines = [f"| | original ({versions['original']}) | ours ({versions['ours']}) | original / ours | limit | ours / limit | goal | reached |",
                 "|---|---:|---:|---:|---:|---:|---|---|"]
        for row, goal in self.goals.items():
            first, ours, best = (statistics.median(self.values.get((row, name), [0])) for name in ("original", "ours", "limit"))
            cells = [row, number(first), number(ours), number(ours and first / ours), number(best), number(best and ours / best), str(goal),
                     goal.verdict(first, ours, best) if ours and self.judged else ""]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


def number(value):
    return "" if not value else f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def version_of(command):
    done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=30)
    return (done.stdout or done.stderr).strip().splitlines()[0].partition(" (")[0] if done.stdout or done.stderr else "unknown version"


# --- a server fed with a stream ---------------------------------------------------------------------------------------


def feed(command, stream, directory, environment, *, marks=(), pipe=None):
    """Feeds `command` one stream from a file; what it took, and when the answers with the numbers in `marks` came.

    Answers go to /dev/null, or through a pipe: one "as sshd makes it", which a server may enlarge, or a "large" one of 1 MiB.
    """
    pack = bed.load_msgpack().packb
    with open(stream, "rb") as source, open(os.devnull, "wb") as nowhere:
        taken = Run(time.perf_counter())
        pipe = pipe or ("as sshd makes it" if marks else None)
        answers, out = (None, nowhere.fileno()) if not pipe else large_pipe() if pipe == "large" else os.pipe()
        server = subprocess.Popen(command, cwd=directory, env=environment, stdin=source, stdout=out)
        watcher = threading.Thread(target=watch_peak, args=(server, taken), daemon=True)
        watcher.start()
        reader = None
        if answers is not None:
            os.close(out)
            if marks:
                taken.find({number: pack({"i": number, "r": None}) for number in marks}, answers)
            else:
                reader = subprocess.Popen(["cat"], stdin=answers, stdout=nowhere)
            os.close(answers)
        taken.wait(server)
        if reader:
            reader.wait()
            taken.seconds = time.perf_counter() - taken.started
    if server.returncode != 0:
        bed.die(f"{command[0]} ended with {server.returncode} on {os.path.basename(stream)}")
    return taken


class Run:
    """What one server took, from its start on: seconds; MB of memory at the peak, resident and (as sampled) private."""

    def __init__(self, started):
        self.started, self.peak, self.private, self.marks, self.seconds, self.user, self.cpu = started, 0, 0, {}, 0, 0, 0

    def find(self, marks, answers):
        """Reads all answers and notes when those came that `marks` has the bytes of."""
        tail = b""
        while data := os.read(answers, MIB):
            window = tail + data
            for number in [number for number, encoded in marks.items() if number not in self.marks and encoded in window]:
                self.marks[number] = time.perf_counter()
            tail = window[-64:]

    def wait(self, server):
        _, status, usage = os.wait4(server.pid, 0)
        server.returncode = os.waitstatus_to_exitcode(status)
        self.seconds = time.perf_counter() - self.started
        self.user, self.cpu = usage.ru_utime, usage.ru_utime + usage.ru_stime


def large_pipe():
    answers, out = os.pipe()
    try:
        fcntl.fcntl(out, getattr(fcntl, "F_SETPIPE_SZ", 1031), MIB)
    except OSError:
        pass  # above the limit for unprivileged users: then all are measured with what there is
    return answers, out


def cpu_of(pid):
    """Seconds of processor time, user's and kernel's, of a running process so far; 0 once it has ended."""
    try:
        fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    except (OSError, ProcessLookupError):
        return 0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# --- memory -----------------------------------------------------------------------------------------------------------


def memory_of(pid, what):
    """kB of VmRSS or VmHWM, 0 once the process has ended."""
    try:
        return int(next(line for line in open(f"/proc/{pid}/status") if line.startswith(what)).split()[1])
    except (OSError, StopIteration, ProcessLookupError):
        return 0


def private_memory_of(pid):
    """kB that no other process and no file shares with this one, 0 once it has ended.

    Clean pages of a file that is mapped privately count as private here; so they are for as long as nobody else maps it.
    """
    try:
        return sum(int(line.split()[1]) for line in open(f"/proc/{pid}/smaps_rollup") if line.startswith("Private_"))
    except (OSError, ProcessLookupError):
        return 0


def watch_peak(process, taken):
    while process.returncode is None:
        value, private = memory_of(process.pid, "VmHWM") / 1000, private_memory_of(process.pid) / 1000
        if value == 0 and taken.peak:
            return
        # Until exec the child is still this very program, whose memory must not count.
        taken.peak, taken.private = (max(taken.peak, value), max(taken.private, private)) if not is_this_program(process.pid) else (0, 0)
        time.sleep(0.01)


def is_this_program(pid):
    try:
        return os.path.basename(sys.argv[0]).encode() in open(f"/proc/{pid}/cmdline", "rb").read()
    except OSError:
        return False


# --- the page cache ---------------------------------------------------------------------------------------------------


def files_of(directory):
    return sorted(os.path.join(folder, name) for folder, _, names in os.walk(directory) for name in names)


def read_all(paths):
    """Reads files as fast as plain reads go; the bytes read."""
    total = 0
    for path in paths:
        with open(path, "rb", buffering=0) as source:
            os.posix_fadvise(source.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
            while data := source.read(MIB):
                total += len(data)
    return total


def make_cold(directory):
    """Takes the files below `directory` out of the page cache; those of others stay there, and no privilege is needed."""
    for path in files_of(directory):
        with open(path, "rb") as file:
            os.fsync(file.fileno())  # only what is clean can go
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
