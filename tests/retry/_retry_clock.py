"""A clock that only moves when somebody sleeps, and keeps what was slept."""


class FakeClock:
    """Starts at 1000 s."""

    def __init__(self):
        self.now = 1000.0
        self.slept = []

    def monotonic(self):
        """Now."""
        return self.now

    def time(self):
        """Now."""
        return self.now

    def sleep(self, seconds):
        """Moves on."""
        self.slept.append(seconds)
        self.now += seconds

    async def async_sleep(self, seconds):
        """Moves on."""
        self.sleep(seconds)
