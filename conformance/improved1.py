"""Borg 1.4.5 as its own weaknesses would be mended: what differential1.py compares our server with.

An intended difference that shows in much of what follows it (in segment numbers, records, files) is not to be tolerated but
to be demanded. So the original is changed by as little as makes it do what we promise, one patch for each number of the
reference's list of weaknesses, and everything else it says and writes stays the measure, byte for byte.
"""

import bed

VERSION = "1.4.5"

PRELUDE = """#!{python}
import functools, inspect, os, sys, textwrap
import borg.archiver as archiver, borg.locking as locking, borg.repository as repository
from borg.crypto.file_integrity import IntegrityCheckedFile
from borg.helpers import Error, msgpack
from borg.remote import RepositoryServer
from borg.repository import LoggedIO, NSIndex, Repository

def wrap(cls, name):
    return lambda make: setattr(cls, name, functools.wraps(getattr(cls, name))(make(getattr(cls, name))))

def edit(cls, name, *changes):
    "Replaces pieces of a method's text, each of which has to be there once."
    method = cls.__dict__[name]
    text = textwrap.dedent(inspect.getsource(method))
    for old, new in changes:
        assert text.count(old) == 1, f"{{name}} has {{text.count(old)}} times: {{old}}"
        text = text.replace(old, new)
    scope = dict()
    exec(compile(text, name, "exec"), method.__globals__, scope)
    setattr(cls, name, scope[name])

{patches}
edit(Repository, "check", *check_edits)
for name, what, is_meant in refusals:
    refusing(name, what, is_meant)
sys.argv[0] = "borg"
archiver.main()
"""

PATCHES = {
    # Compares with the index as it was found, also if that is newer than the last commit; and says which index that is.
    "W5": '''
def load_as_is(self, number):
    try:
        integrity = self._read_integrity(number, b"index")
        with IntegrityCheckedFile(os.path.join(self.path, "index.%d" % number), write=False, integrity_data=integrity) as file:
            return NSIndex.read(file)
    except Exception as error:
        repository.logger.warning("Repository index missing or corrupted, trying to recover from: %s", error)
Repository.load_as_is = load_as_is

edit(Repository, "check_transaction", ("            replay_from = None\\n", """            replay_from = None
            logger.warning('The index is of transaction %d, the last commit in the log is %d: what was committed in between '
                           'may be lost. Run "borg check".', index_transaction_id, segments_transaction_id)
"""))

check_edits += [("    try:\\n        transaction_id = self.get_transaction_id()\\n", """    orphan, stored, committed = None, self.get_index_transaction_id(), self.io.get_segments_transaction_id()
    if stored is not None and (committed is None or stored > committed):
        orphan = self.load_as_is(stored)
        if committed is None:
            report_error('No committed segment found, although there is an index of transaction %d.', stored)
    try:
        transaction_id = self.get_transaction_id()
"""),
    ("current_index = self.open_index(transaction_id)\\n", "current_index = self.open_index(transaction_id)\\n        current_index = current_index if orphan is None else orphan\\n"),
    ("current_index = None\\n", "current_index = orphan\\n")]
''',
    # A repair compares, too; that nothing is lost needs no saying there.
    "W6": '''
check_edits += [("if current_index and not repair:", "if current_index:"),
                # What has only moved up in a recovered segment is not lost.
                ("error_found = False\\n", "error_found = False\\n    recovered = set()\\n"),
                ("self.io.recover_segment(segment, filename)\\n", "self.io.recover_segment(segment, filename)\\n                recovered.add(segment)\\n"),
                ("current_value = current_index.get(key, not_found)\\n                if current_value != value:",
                 "current_value = current_index.get(key, not_found)\\n                if current_value != value and not (current_value[0] == value[0] and value[0] in recovered):"),
                ("            else:\\n                logger.info('Index object count match.')", "            elif not repair:\\n                logger.info('Index object count match.')")]
''',
    "W13": '''
class PermissionDenied(Error):
    "Permission denied: {}."

def protecting(open):
    def opening(self, *arguments, **more):
        answer = open(self, *arguments, **more)
        self.repository.is_protected = self.append_only
        self.repository.append_only = self.repository.append_only or self.append_only
        return answer
    return opening
wrap(RepositoryServer, "open")(protecting)

def refusing(name, what, is_meant):
    def make(method):
        def refuse(self, *arguments, **more):
            if self.is_protected and is_meant(more):
                raise PermissionDenied(what + " is not permitted with --append-only")
            return method(self, *arguments, **more)
        return refuse
    wrap(Repository, name)(make)
refusals += [("destroy", "destroying the repository", lambda more: True), ("check", "repairing the repository", lambda more: more.get("repair"))]
''',
    "W15": '''
edit(Repository, "compact_segments", ("    pi.finish()\\n", "    pi.finish()\\n    if not unused:\\n        return\\n"))
''',
    "W16": '''
wrap(Repository, "scan")(lambda scan: lambda self, *arguments, **more: (self.io._write_fd and self.io._write_fd.sync(), scan(self, *arguments, **more))[1])
''',
    # A damaged index is made anew as a missing one is. The lock then is as it was.
    "W17": '''
edit(Repository, "open_index", ("""        self.prepare_txn(self.get_transaction_id())
        # don't leave an open transaction around
        self.commit(compact=False)
""", ""))
edit(Repository, "prepare_txn", ("            logger.warning('Checking repository transaction due to previous error: %s', exc)\\n", ""))

def replaying(replay):
    def replay_segments(self, base, committed):
        if base is not None:
            try:
                kind, said = "index", "Repository index missing or corrupted, trying to recover from: %s"
                for kind in ("index", "hints"):
                    integrity = self._read_integrity(base, kind.encode())
                    with IntegrityCheckedFile(os.path.join(self.path, "%s.%d" % (kind, base)), write=False, integrity_data=integrity) as file:
                        (NSIndex.read if kind == "index" else msgpack.unpack)(file)
                    said = "Repository hints file missing or corrupted, trying to recover: %s"
            except Exception as error:
                repository.logger.warning(said, error)
                base = None
        shared = self.lock is not None and not self.lock.got_exclusive_lock()
        replay(self, base, committed)
        if shared:
            self.lock.downgrade()
    return replay_segments
wrap(Repository, "replay_segments")(replaying)
''',
    # Each wait for a lock says a thing once.
    "X1": '''
class Once:
    said = set()
    def __getattr__(self, level):
        return lambda text, *arguments: (text, arguments) in self.said or (self.said.add((text, arguments)), getattr(logger, level)(text, *arguments))
logger, locking.logger = locking.logger, Once()
wrap(locking.Lock, "acquire")(lambda acquire: lambda self, *arguments, **more: (Once.said.clear(), acquire(self, *arguments, **more))[1])
''',
    "X2": '''
check_edits += [("        self.io.write_commit()\\n", """        segment = self.io.write_commit()
        self.segments.setdefault(segment, 0)
        self.compact[segment] += LoggedIO.header_fmt.size
""")]
''',
}


def program(place, numbers):
    """Writes the original with these patches; the path of what to run."""
    path = place / "improved-borg"
    patches = "".join(PATCHES[number] for number in PATCHES if number in numbers)
    path.write_text(PRELUDE.format(python=bed.client_path(VERSION).with_name("python"),
                                   patches=f'check_edits, refusals = [], []\n{patches}'))
    path.chmod(0o755)
    return path
