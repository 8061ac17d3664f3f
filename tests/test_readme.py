"""docs/map.md has every file, with what the file says of itself."""

import ast
import os
import pathlib
import re
import tomllib

import pytest

import t5x_lite

ROOT = pathlib.Path(__file__).parents[1]
MAP = ROOT / "docs" / "map.md"
FOLDERS = ("t5x_lite", "tasks", "launch")


def summary(path: pathlib.Path) -> str:
  """Returns the first sentence of a docstring, or of a script's comment."""
  text = path.read_text()
  if path.suffix == ".py":
    paragraph = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
    return " ".join(paragraph.split()).rstrip(".")
  lines = re.findall(r"^# ?(?!!)(.*)", text, re.M)[:3]
  return re.split(r"[.;:] |\.$", " ".join(lines).strip())[0].rstrip(".")


def rows() -> list[str]:
  """Returns the map's lines, library first."""
  files = [
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".sh", ".sbatch")
    and not (path.name == "__init__.py" and path.parent.parent == ROOT)
  ]
  names = {str(path.relative_to(ROOT)): path for path in files}
  # One line for all of a folder whose files are alike.
  alike = ROOT / "t5x_lite/interop/families/__init__.py"
  names = {n: p for n, p in names.items() if p.parent != alike.parent}
  names[f"{alike.parent.relative_to(ROOT)}/"] = alike
  width = max(map(len, names))
  in_order = sorted(names, key=lambda n: (FOLDERS.index(n.split("/")[0]), n))
  return [f"{name:<{width}}  {summary(names[name])}" for name in in_order]


def test_map_has_every_file_with_its_first_sentence():
  before, _, rest = MAP.read_text().partition("```\n")
  after = rest.partition("```\n")[2]
  right = "\n".join([f"{before}```", *rows(), f"```\n{after}"])
  if os.environ.get("UPDATE_GOLDEN") == "1":
    MAP.write_text(right)
  assert MAP.read_text() == right, "UPDATE_GOLDEN=1 renews the map"


@pytest.mark.parametrize(
  ["page", "at_least"],
  [("README.md", 20), ("CONTRIBUTING.md", 8), ("docs/map.md", 100)],
)
def test_named_files_exist(page, at_least):
  named = re.findall(
    r"\b(?:gin|launch|t5x_lite|tasks|docs|tests)/[\w./]+\.\w+",
    (ROOT / page).read_text(),
  )
  named = [name for name in named if "NAME" not in name]
  assert len(named) >= at_least
  missing = [name for name in named if not (ROOT / name).exists()]
  assert not missing


def test_links_of_the_guides_lead_somewhere():
  pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]
  for page in pages:
    for link in re.findall(r"\]\(([^)\s#]+)\)", page.read_text()):
      assert "://" in link or (page.parent / link).exists(), (page.name, link)


def test_license_and_version_are_the_same_everywhere():
  project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
  cited = (ROOT / "CITATION.cff").read_text()
  assert project["license"] == "Apache-2.0"
  assert "\nlicense: Apache-2.0\n" in cited
  assert f"\nversion: {t5x_lite.__version__}\n" in cited
  (file,) = project["license-files"]
  assert "Apache License\n" in (ROOT / file).read_text()
