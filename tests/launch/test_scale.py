"""docs/scale.md: its commands are understood, and its arithmetic is right."""

import pathlib
import shlex

import pytest

from launch import main, options, plan
from t5x_lite.accounting import opaque_calls, topologies
from tests import guides

ROOT = pathlib.Path(__file__).parents[2]
COMMANDS = [
  shlex.split(command)
  for command in guides.commands("scale.md")
  if command.startswith("t5x_lite plan")
]


def words(text) -> list[str]:
  """Returns the words of a text, wherever its lines end."""
  return text.split()


def test_every_command_is_understood_and_its_files_and_devices_exist():
  assert len(COMMANDS) >= 7
  for _, name, *given in COMMANDS:
    values = options.flags_of(name, plan)
    assert options.parse(name, values, given) == []
    assert values.gin_file
    assert all((ROOT / file).is_file() for file in values.gin_file)
    assert topologies.parse(values.topology, values.slices)


@pytest.mark.parametrize(
  "command",
  [c for c in COMMANDS if "--topology=h100x8" in c and "--search" not in c],
)
def test_what_arithmetic_prints_is_what_the_guide_shows(
  command, capsys, monkeypatch
):
  monkeypatch.setattr(topologies.importlib.util, "find_spec", lambda name: None)
  assert main.main(command[1:]) == 0
  printed = capsys.readouterr().out
  shown = "".join(guides.blocks("scale.md", "text"))
  assert " ".join(words(printed)) in " ".join(words(shown))


def test_the_share_of_kernels_is_the_one_that_the_guide_states():
  text = (guides.DOCS / "scale.md").read_text()
  assert f"{opaque_calls.KERNEL_SHARE:.0%} of the peak" in text
