"""Makes the user's own modules importable by gin files, from any directory.

The folder of each gin file that is read can be imported from, and so can
--gin_search_paths. A saved configuration names those folders in comments at
its top, so that later commands find the same modules:

  # Modules are imported from: /home/me/mine
"""

import os
import pathlib
import re
import sys

_COMMENT = "# Modules are imported from: "
# Of the configuration that is loaded, in the order in which they were given.
_folders: list[pathlib.Path] = []


def forget():
  """Forgets the folders of the last configuration; they stay importable."""
  _folders.clear()


def add(folder):
  """Makes a folder importable, after everything that is installed.

  Last, so that no file of the user's can stand in for a library's module.
  """
  folder = pathlib.Path(os.path.abspath(os.path.expanduser(folder)))
  if folder not in _folders:
    _folders.append(folder)
  if str(folder) not in sys.path:
    sys.path.append(str(folder))


def add_recorded(text):
  """Makes importable what a saved configuration names."""
  for folder in recorded(text):
    add(folder)


def recorded(text) -> list[str]:
  """Returns the folders that a saved configuration names."""
  return re.findall(f"^{_COMMENT}(.+)$", text, re.M)


def record(text) -> str:
  """Returns a configuration's text with the folders of its modules on top."""
  used = {_folder_of(module) for module in list(sys.modules.values())}
  lines = [f"{_COMMENT}{folder}\n" for folder in _folders if folder in used]
  return "".join(lines) + text


def folders() -> list[str]:
  """Returns the importable folders of the configuration that is loaded."""
  return [str(folder) for folder in _folders]


def names() -> set[str]:
  """Returns the names of the modules and packages in those folders."""
  return {
    path.parent.name if path.stem == "__init__" else path.stem
    for folder in _folders
    for pattern in ("[!_]*.py", "*/__init__.py")
    for path in folder.glob(pattern)
  }


def _folder_of(module) -> pathlib.Path | None:
  """Returns the folder that a top-level module or package was found in."""
  spec = getattr(module, "__spec__", None)
  if spec is None or "." in spec.name:
    return None
  places = list(spec.submodule_search_locations or ())
  origin = places[0] if places else spec.has_location and spec.origin
  return pathlib.Path(origin).absolute().parent if origin else None
