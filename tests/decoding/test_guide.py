"""docs/decoding.md: its program runs as it is, and prints what it shows."""

import math
import re

import pytest

from tests import guides

LINE = re.compile(r"(.{12}) the ([a-z ]+) \.  \((-[\d.]+)\)")


def lines(text):
  """Returns [(name, words, log probability)]."""
  found = [LINE.fullmatch(line) for line in text.splitlines()]
  return [(m[1].strip(), m[2].split(), float(m[3])) for m in found]


@pytest.mark.slow
def test_the_program_prints_a_text_by_each_strategy(capsys):
  (program,) = guides.blocks("decoding.md", "python")
  names = {}
  exec(compile(program, "docs/decoding.md", "exec"), names)
  found = lines(capsys.readouterr().out)
  (shown,) = guides.blocks("decoding.md", "text")
  shown = lines(shown)
  assert [one[0] for one in found] == [one[0] for one in shown]
  texts = {}
  for name, words, log_prob in found:
    # Equally probable ones may come in another order.
    assert f"the {' '.join(words)} ." in names["sentences"], name
    share = 4 / 9 if words[0] == "cat" else 1 / 9
    assert log_prob == pytest.approx(math.log(share), abs=0.3)
    texts.setdefault(name, []).append(words)
  assert texts["beam"] == [["cat", "sat", "on", "the", "mat"]]
  assert texts["beam"][0] in texts["3 best"] and len(texts["3 best"]) == 3
  assert texts["greedy"][0][0] == "dog"
  assert texts["banned"][0][0] == "dog" and "day" not in texts["banned"][0]
  assert texts["among"][0][:2] in (["dog", "slept"], ["dog", "dug"])
  for words in texts["no repeats"]:
    assert len({"the", *words}) == len(words) + 1
