"""What a progress bar writes into a log, and the rates that it measures."""

import io

import pytest

from tf_amalgam import progress
from tf_amalgam.progress import Bar


def test_it_is_drawn_where_there_is_something_new():
    log = io.StringIO()
    with Bar(total=3, file=log, ascii=True) as bar:
        for _ in range(20):
            bar.say("2 running")
            bar.reach(0)
        assert log.getvalue().count("2 running") == 1
        bar.say("1 running")
        assert log.getvalue().count("1 running") == 1


class Gone(io.StringIO):
    """A pipe whose reader ends after so many writes, as Ctrl-C ends `tee`, too."""

    def __init__(self, writes):
        super().__init__()
        self.left = writes

    def write(self, text):
        self.left -= 1
        if self.left < 0:
            raise BrokenPipeError
        return super().write(text)


@pytest.mark.parametrize("writes", [0, 1, 2, 4])
def test_nobody_needs_to_see_it(writes):
    bar = Bar(total=3, file=Gone(writes), mininterval=0.0)
    for n in (1, 2):
        bar.say(f"{n} done")
        bar.reach(n)
    bar.close()
    file = Gone(100)
    bar = Bar(total=3, file=file)
    file.left = 0  # it ends between the last look and the end
    bar.close()


def test_time_goes_on_where_nothing_happens(monkeypatch):
    log, clock = io.StringIO(), [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Bar(total=3, file=log, ascii=True) as bar:
        for _ in range(130):
            bar.say("2 running")
            clock[0] += 1.0
    assert log.getvalue().count("2 running") == 4  # after 0, 61 and 122 s, at the end


def test_looks_that_find_nothing_done_are_no_beginning():
    """A run of a minute, looked at each second, took a minute."""
    bar = Bar(total=3, file=io.StringIO())
    clock = [bar.start_t]
    bar._time = lambda: clock[0]
    for _ in range(60):
        clock[0] += 1.0
        bar.reach(0)
    bar.reach(1)
    assert bar.format_dict["rate"] == pytest.approx(1 / 60)
    bar.close()


def test_none_is_shown_where_none_is_asked_for():
    log = io.StringIO()
    with Bar(total=3, file=log, disable=True) as bar:
        bar.say("2 running")
        bar.reach(2)
    assert not log.getvalue()
