"""A job over a file says how far it is, and how it was left."""

import sys

import pytest

from t5x_lite.inference import infer
from t5x_lite.inference.progress import Progress
from tests.inference.test_infer import alphabet, generation, write


def test_progress_is_a_line_at_the_end_and_while_it_is_announced(capsys):
  with Progress(6, 2) as progress:
    assert progress._line() == "2/6 texts"
    progress.update(2)
    assert progress._line().startswith("4/6 texts, ")
    assert progress._line().endswith(" left")
    progress.update(2)
  said = capsys.readouterr().err.splitlines()
  assert said[0] == "resuming after 2 of 6 texts"
  assert said[1].startswith("6/6 texts, ") and len(said) == 2


def test_a_job_that_was_left_says_where(capsys):
  with pytest.raises(KeyboardInterrupt), Progress(6, 0) as progress:
    progress.update(3)
    raise KeyboardInterrupt
  assert "stopped after 3 of 6 texts; the same" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(tmp_path, monkeypatch):
  class Terminal:
    def __init__(self):
      self.text = ""
      self.encoding = "utf-8"

    def write(self, text):
      self.text += text

    def flush(self):
      pass

    def isatty(self):
      return True

  terminal = Terminal()
  monkeypatch.setattr(sys, "stderr", terminal)
  path_in = write(tmp_path / "in.jsonl", *[{"text": c} for c in "abc"])
  infer.run_file(generation(), alphabet(), path_in, tmp_path / "out.jsonl")
  assert "3/3" in terminal.text and "texts, " not in terminal.text
