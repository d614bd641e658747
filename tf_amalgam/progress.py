"""A progress bar that is drawn anew where there is something new to show."""

import contextlib
import time

import tqdm

# Where nothing happens, the time that has passed is shown anew so often, in seconds.
PATIENCE = 60.0


class Bar(tqdm.tqdm):
    """tqdm's bar, for work that is looked at several times a second.

    Drawn at each look, it would add megabytes to a log of a long run; and a look that
    finds nothing done would be taken for the beginning of what is done next.
    """

    _said = ""
    _said_at = 0.0

    def display(self, *args, **kwargs):
        """Draws the bar, unless nobody can see it any more (a pipe that has ended)."""
        try:
            return super().display(*args, **kwargs)
        except OSError:
            self.disable = True
            return False

    def close(self):
        with contextlib.suppress(OSError):
            super().close()

    def reach(self, n):
        """Moves the bar to `n` in all."""
        if n != self.n:
            self.update(n - self.n)

    def say(self, text):
        """Shows a text beside the bar."""
        now = time.monotonic()
        if text != self._said or now > self._said_at + PATIENCE:
            self._said, self._said_at = text, now
            self.set_postfix_str(text)
