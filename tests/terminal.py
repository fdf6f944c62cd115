"""A terminal for tests: what is typed there, Ctrl-C too, and what is shown."""

import os
import pty
import re
import select
import signal
import time
from contextlib import suppress

LIMIT_S = 200.0  # a machine may be busy


class Terminal:
    """A program that believes to talk to a person."""

    def __init__(self, *line, kind="dumb"):
        self.line, self.shown, self.status = list(map(str, line)), "", None
        self.kind = kind

    def __enter__(self):
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # else as in the background of a script
            os.execvpe(self.line[0], self.line, {**os.environ, "COLUMNS": "200", "TERM": self.kind})
        return self

    def __exit__(self, *_error):
        os.close(self.handle)
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self.status is None:
            os.waitpid(self.pid, 0)

    def type(self, keys):
        self.shown = ""
        os.write(self.handle, keys.encode())

    def until(self, pattern):
        """Wait until what was shown since the last keys matches."""
        end_s = time.monotonic() + LIMIT_S
        while not re.search(pattern, self.shown):
            assert time.monotonic() < end_s, self.shown
            if select.select([self.handle], [], [], 0.1)[0]:
                self.shown += os.read(self.handle, 65536).decode(errors="replace")

    def ended(self):
        """Wait for its end: exit status, and all that was shown since the last keys."""
        with suppress(OSError):  # how a terminal says that nobody is there any more
            self.until(r"(?!)")
        _, status = os.waitpid(self.pid, 0)
        self.status = os.waitstatus_to_exitcode(status)
        return self.status, self.shown
