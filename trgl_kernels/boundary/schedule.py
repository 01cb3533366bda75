"""In which steps a boundary finds: all of the first, few of the others, more after an alarm."""

FIRST = 2  # steps of a run
SAMPLE = 128  # one step in so many: finding costs up to a fifth of a step
WATCH = 4  # steps after an alarm


class Schedule:
    """Decides from the number of steps so far, and from alarms: counters that disagree."""

    def __init__(self) -> None:
        self.steps = 0
        self._watch_until = 0
        self._quiet_until = 0
        self._quiet = 0

    def finds(self) -> bool:
        """Whether the step that begins finds."""
        return self.steps < max(FIRST, self._watch_until) or self.steps % SAMPLE == SAMPLE - 1

    def hears(self) -> bool:
        """Whether an alarm counts: after a false one it does not, for a while."""
        return self.steps >= self._quiet_until

    def alarm(self, true: bool, found: bool) -> None:
        """Counters disagreed, or something was found.

        Args:
            true: something was held.
            found: the step that was searched was watched, so that all was seen.
        """
        if true:
            self._quiet = 0
            self._watch_until = self.steps + 1 + WATCH
        elif found:
            self._quiet = min(SAMPLE, max(2, 2 * self._quiet))
            self._quiet_until = self.steps + 1 + self._quiet
            self._watch_until = 0
        else:
            self._watch_until = self.steps + 2  # the next one
