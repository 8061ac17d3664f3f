"""Reads the files, programs and commands that a guide in docs/ shows."""

import pathlib
import re

DOCS = pathlib.Path(__file__).parents[1] / "docs"


def files(guide: str) -> dict[str, str]:
  """Returns name -> content of the blocks that stand below a file's name."""
  text = (DOCS / guide).read_text()
  found = re.findall(r"^`(\S+)`\n```\w*\n(.*?)^```$", text, re.M | re.S)
  return dict(found)


def blocks(guide: str, language: str) -> list[str]:
  """Returns a guide's blocks of code in a language."""
  text = (DOCS / guide).read_text()
  return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def commands(guide: str) -> list[str]:
  """Returns the command lines of a guide, in order."""
  lines = "".join(blocks(guide, "sh")).replace("\\\n", " ").splitlines()
  return [line for line in lines if line and line[0] != "#"]
