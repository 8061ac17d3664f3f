"""The README's map has every file, with what the file says of itself."""

import ast
import os
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[1]
README = ROOT / "README.md"
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
  text = README.read_text()
  start = text.index("## The map\n\n```\n") + len("## The map\n\n```\n")
  end = text.index("gin/models/ ", start)
  right = "\n".join(rows()) + "\n"
  if os.environ.get("UPDATE_GOLDEN") == "1":
    README.write_text(text[:start] + right + text[end:])
  assert README.read_text()[start:].startswith(right + "gin/models/ "), (
    "UPDATE_GOLDEN=1 renews the map"
  )


def test_named_files_exist():
  named = re.findall(
    r"\b(?:gin|launch|t5x_lite|tasks|docs)/[\w./]+\.\w+", README.read_text()
  )
  assert len(named) > 100
  missing = [name for name in named if not (ROOT / name).exists()]
  assert not missing
