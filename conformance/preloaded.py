"""A Borg 1.x program that is loaded once and forked for each command: a third of its usual time is Python's start.

    bin/python3 preloaded.py SOCKET           loads `borg` of this environment and serves the socket (see `serve`)
    python3 preloaded.py SOCKET WORD...       becomes, as far as others can see, that `borg WORD...`

The process that runs the command is a fork of the loaded program: same code, own pid, environment, directory, umask and
descriptors, the default handling of signals, a process group of its own. It can be killed like any other.
"""

import array
import os
import signal
import socket
import sys

SEPARATOR = b"\0\0"  # between the parts of a request; none of them has an empty word in it


def request(path, words, environment, directory, descriptors):
    """Starts a command; a connection on which come its pid and, once it has ended, its exit status, one line each."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(path)
    parts = [[directory], words, [f"{key}={value}" for key, value in environment.items()]]
    data = SEPARATOR.join(b"\0".join(b"." + os.fsencode(word) for word in part) for part in parts)
    connection.sendall(len(data).to_bytes(4, "big"))
    connection.sendmsg([data[:1]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])
    connection.sendall(data[1:])
    return connection


def serve(path):
    """Answers requests until its input ends, each by a fork that outlives no command."""
    import gc
    import select

    from borg.archiver import main

    gc.freeze()  # the pages that a collection would touch stay shared with the forks
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(64)
    print("ready", flush=True)
    while True:
        ready, _, _ = select.select([0, listener], [], [])
        if 0 in ready:  # whoever started this has ended
            os.unlink(path)
            return
        connection, _ = listener.accept()
        if os.fork():
            connection.close()
            continue
        listener.close()
        try:
            supervise(connection, main)
        finally:
            os._exit(70)


def supervise(connection, main):
    length = int.from_bytes(receive(connection, 4), "big")
    first, ancillary, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * 4))
    descriptors = array.array("i", ancillary[0][2])
    parts = (first + receive(connection, length - 1)).split(SEPARATOR)
    directory, words, environment = ([word[1:] for word in part.split(b"\0")] for part in parts)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        connection.close()
        os.setsid()
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
        os.closerange(3, 1024)
        run(directory[0], words, environment, main)
    for descriptor in (0, 1, 2, *descriptors):
        os.close(descriptor)
    try:
        connection.sendall(b"%d\n" % pid)
    except OSError:
        pass
    _, status = os.waitpid(pid, 0)
    try:
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))
    except OSError:
        pass
    os._exit(0)


def receive(connection, count):
    data = b""
    while len(data) < count:
        more = connection.recv(count - len(data))
        if not more:
            os._exit(70)
        data += more
    return data


def run(directory, words, environment, main):
    """The command itself; never returns."""
    code = 70
    try:
        os.chdir(directory)
        os.environb.clear()
        os.environb.update(entry.split(b"=", 1) for entry in environment)
        sys.argv = ["borg", *map(os.fsdecode, words)]
        # The streams of the loaded program may hold what it had buffered.
        for number, mode, name in ((0, "r", "stdin"), (1, "w", "stdout"), (2, "w", "stderr")):
            stream = open(number, mode, encoding="utf-8", errors="surrogateescape", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)  # keeps the stream open when `main` wraps its buffer anew
        main()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(code)


def become(path, words):
    """Hands this process's descriptors to the command and ends as it does, without holding them meanwhile."""
    connection = request(path, words, dict(os.environ), os.getcwd(), [0, 1, 2])
    for number in (0, 1, 2):
        os.close(number)
    lines = connection.makefile("rb")
    pid, log = lines.readline(), os.environ.get("PRELOADED_LOG")
    if log and pid:
        with open(log, "ab") as file:
            file.write(pid)
    status = lines.readline()
    code = int(status) if status else 70
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        become(sys.argv[1], sys.argv[2:])
