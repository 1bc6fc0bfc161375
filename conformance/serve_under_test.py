"""pytest plugin: Borg's own test suite, its "remote" repositories served by another program.

SERVE_UNDER_TEST names the server; load with `-p serve_under_test` and this folder on PYTHONPATH (scripts/conformance
does). Wherever the suite would start `python -m borg serve [options]` (Borg 2) or `python -m borg.archiver serve
[options]` (Borg 1.x), it starts `$SERVE_UNDER_TEST serve [options]`. The command line that the client composes stays as
it was, because two tests of the suite compare it; only the process that is started from it is another one.

Up to 2.0.0b21 that process is started in `borg.remote`. Its successors start `python -m borg serve --rest …` in borgstore,
from a command that `borg.repository` composes; there it is the composed backend that gets another command.

PASSED_TESTS names a file which gets the ids of the tests that passed, one a line, sorted, free of local paths;
COLLECTED_TESTS one for those that were selected, when `--collect-only` is given.
"""

import os
import sys

try:
    import borg.remote as remote
except ImportError:
    remote = None
    import borg.repository as repository

_passed = set()
_started = os.environ.get("SERVE_UNDER_TEST_STARTED")
_ORIGINAL = ([sys.executable, "-m", "borg", "serve"], [sys.executable, "-m", "borg.archiver", "serve"])


def _replaced(command):
    """The same command, of the server under test."""
    server = os.environ.get("SERVE_UNDER_TEST")
    return [server, *command[3:]] if server and command[:4] in _ORIGINAL else command


def _served(command, start):
    """What `start` makes of the replaced command."""
    replaced = _replaced(command)
    if replaced is not command and _started:  # proof that the server under test served: one byte for each start
        with open(_started, "ab") as starts:
            starts.write(b".")
    return start(replaced)


if remote:
    _popen = remote.Popen
    remote.Popen = lambda command, *arguments, **keywords: _served(command, lambda replaced: _popen(replaced, *arguments, **keywords))
else:
    _REST = repository.REST
    repository.REST = lambda *arguments, command, **keywords: _served(command, lambda replaced: _REST(*arguments, command=replaced, **keywords))


def _name(of):
    # Depending on how its module was found, a test's id may lack the module. The location always has one: that of the
    # class, which may be another's that its module imports.
    module, test = of.nodeid.split("::", 1)
    if not module.endswith(".py"):
        module = of.location[0]
    return "borg/testsuite/" + module.split("borg/testsuite/", 1)[-1] + "::" + test


def _write(variable, names):
    if path := os.environ.get(variable):
        with open(path, "w") as file:
            file.writelines(name + "\n" for name in sorted(names))


def pytest_runtest_logreport(report):
    if report.when == "call" and report.passed:
        _passed.add(_name(report))


def pytest_collection_finish(session):
    if session.config.option.collectonly:
        _write("COLLECTED_TESTS", map(_name, session.items))


def pytest_sessionfinish(session):
    # The workers of xdist have their own copy of this plugin.
    if not hasattr(session.config, "workerinput") and not session.config.option.collectonly:
        _write("PASSED_TESTS", _passed)
