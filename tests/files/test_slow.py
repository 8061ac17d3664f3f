"""What takes long is said: what it is, how far, and again while it lasts."""

import re
import time

import pytest

from t5x_lite.files import slow
from t5x_lite.files.slow import announced, counted


@pytest.fixture
def line(monkeypatch):
  """What is printed at a time, in seconds from now."""
  monkeypatch.setattr(slow, "NEW", 8.0)
  monkeypatch.setattr(slow, "SAME", 30.0)
  watch = slow._Watch()
  monkeypatch.setattr(slow, "_watch", watch)
  monkeypatch.setattr(watch, "start", lambda: None)
  begun = time.monotonic()
  return lambda seconds: watch.line(begun + seconds + 0.5)


def test_a_block_is_said_after_8_s_and_then_every_30(line):
  with announced("reading", detail=lambda: "3 files"):
    said = [second for second in range(80) if line(second)]
  assert said == [8, 38, 68]
  assert line(200) is None
  with announced("reading", detail=lambda: "3 files"):
    assert line(300) == "t5x_lite: reading, 3 files (300 s so far)"


def test_steps_that_are_short_are_said_as_part_of_what_is_long(line):
  with announced("planning"):
    for second in range(30):  # Each a block of a second.
      with announced("compiling"):
        found = line(second)
        if found:
          break
  assert second == 8
  assert re.fullmatch(r"t5x_lite: planning: compiling \(\d+ s so far\)", found)


def test_a_block_with_a_bar_is_silent_but_not_what_it_does_beside(line):
  with announced("train"), announced(None):
    assert line(100) is None
    with announced("evaluating"):
      assert line(200).startswith("t5x_lite: evaluating (")


def test_a_loop_says_how_many_are_done_and_the_time_left(line):
  lines = [line(100 * n) for n in counted([1, 2, 3], "planning")]
  assert "planning, 0 of 3 (" in lines[0]
  assert re.search(r"planning, 2 of 3, 00:\d\d left \(", lines[2])


def test_lines_are_printed_while_python_waits(monkeypatch, capsys):
  monkeypatch.setattr(slow, "NEW", 0.1)
  monkeypatch.setattr(slow, "_POLL", 0.05)
  watch = slow._Watch()
  monkeypatch.setattr(slow, "_watch", watch)
  with announced("waiting for data"):
    time.sleep(0.6)
  assert "t5x_lite: waiting for data (" in capsys.readouterr().err
