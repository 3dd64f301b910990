"""Progress on stderr: lines where there is no terminal, with a rate and the time left of this very stage."""

from __future__ import annotations

import pytest

from relact.cli import progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that a test sets."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def lines_of(capsys):
    return capsys.readouterr().err.splitlines()


def test_a_line_has_the_rate_and_the_time_left(clock, capsys):
    with progress.Stages() as stages:
        stages("ablate", 0, 100, "answers")
        clock[0] = 10.0
        stages("ablate", 50, 100, "answers")
    assert lines_of(capsys) == ["ablate: 50/100 answers, 5.0 answers/s, 0:10 left"]


def test_a_stage_that_comes_again_is_timed_anew(clock, capsys):
    with progress.Stages() as stages:
        stages("ablate", 0, 100, "answers")
        clock[0] = 1000.0
        stages("ablate", 100, 100, "answers")
        stages("ablate", 0, 200, "answers")
        clock[0] = 1010.0
        stages("ablate", 100, 200, "answers")
    assert lines_of(capsys)[-1] == "ablate: 100/200 answers, 10 answers/s, 0:10 left"
