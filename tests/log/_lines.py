"""What a configured log has written."""

import io
import json
from contextlib import contextmanager

from gaudi3_rt import log


class Lines(io.StringIO):
    """A stream whose lines are entries."""

    @property
    def entries(self):
        """All of them; each line has to be an object of JSON."""
        text = self.getvalue()
        assert text == "" or text.endswith("\n")
        return [json.loads(line) for line in text.split("\n")[:-1]]

    @property
    def entry(self):
        """The only one."""
        (entry,) = self.entries
        return entry


@contextmanager
def logged(level="debug", **options):
    """A stream that gets entries as JSON inside the block."""
    lines = Lines()
    with log.configure_logging("json", level, stream=lines, **options):
        yield lines
