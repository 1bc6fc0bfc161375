"""pytest plugin: Borg's own test suite, its "remote" repositories served by another program.

SERVE_UNDER_TEST names the server; load with `-p serve_under_test` and this folder on PYTHONPATH (scripts/conformance
does). Wherever the suite would start `python -m borg serve [options]`, it starts `$SERVE_UNDER_TEST serve [options]`.
The command line that the client composes stays as it was, because two tests of the suite compare it; only the process
that is started from it is another one. `borg.remote` exists up to 2.0.0b21.

PASSED_TESTS names a file which gets the ids of the tests that passed, one a line, sorted, free of local paths.
"""

import os
import sys

import borg.remote as remote

_popen = remote.Popen
_passed = set()
_started = os.environ.get("SERVE_UNDER_TEST_STARTED")


def popen(command, *arguments, **keywords):
    server = os.environ.get("SERVE_UNDER_TEST")
    if server and command[:4] == [sys.executable, "-m", "borg", "serve"]:
        command = [server, *command[3:]]
        if _started:  # proof that the server under test served: one byte for each start
            with open(_started, "ab") as starts:
                starts.write(b".")
    return _popen(command, *arguments, **keywords)


remote.Popen = popen


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        _passed.add("borg/testsuite/" + report.nodeid.split("borg/testsuite/", 1)[-1])


def pytest_sessionfinish(session):
    path = os.environ.get("PASSED_TESTS")
    if path and not hasattr(session.config, "workerinput"):  # the workers of xdist have their own copy of this plugin
        with open(path, "w") as file:
            file.writelines(name + "\n" for name in sorted(_passed))
