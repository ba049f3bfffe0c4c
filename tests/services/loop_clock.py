"""The event loop's clock in a test's hand: what is due comes when the test wants it, however busy the machine is."""

import asyncio


class LoopClock:
    """Goes as the clock of the event loop that runs, and ahead of it as far as the test moves it."""

    def __init__(self) -> None:
        self._time = asyncio.get_running_loop().time
        self._ahead = 0.0

    def time(self) -> float:
        return self._time() + self._ahead

    def pass_(self, seconds: float) -> None:
        """Let time pass: whatever is due by then is done in the loop's next steps."""
        self._ahead += seconds
