"""docs/performance.md: its commands are understood, and its files exist."""

import pathlib
import shlex

from launch import bench, options
from tests import guides

ROOT = pathlib.Path(__file__).parents[2]


def test_every_command_is_understood_and_its_files_exist():
  commands = [shlex.split(c) for c in guides.commands("performance.md")]
  assert len(commands) == 4
  for program, name, *given in commands:
    assert (program, name) == ("t5x_lite", "bench")
    values = options.flags_of(name, bench)
    assert options.parse(name, values, given) == []
    assert values.against == "transformers"
    assert all((ROOT / file).is_file() for file in values.gin_file)
