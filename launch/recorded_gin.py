"""Writes and reads the gin of a run directory, which is not trusted.

A gin file is a program: its imports run modules, and `@NAME()` calls what it
names. The gin files of the command line are the user's own. A run directory may
be somebody else's, so its config.gin is checked before gin reads it: it may
import t5x_lite, tasks and what --allow_import names, and refer to classes of
these, not to what they import in turn (`disk.os.system`) nor to functions that
write files. Its first line holds the digest of the others.
"""

import dataclasses
import hashlib
import inspect
import io
import re
from collections.abc import Collection, Iterator
from typing import Any

import gin
from etils import epath

from launch import gin_errors, gin_slice, user_modules
from launch.gin_errors import ConfigError

_OURS = ("t5x_lite", "tasks")
# Where functions make tasks or measure predictions; others may write files.
_WITH_FUNCTIONS = (
  "tasks.evaluation", "tasks.external", "tasks.metrics", "tasks.mixtures",
  "tasks.text",
)  # fmt: skip
_BUILTINS = ("gin.macro", "gin.constant", "gin.singleton")
_SEAL = "# sha256 of all lines below: "


def sealed(text: str) -> str:
  """Returns a configuration with its digest as a line on top."""
  return f"{_SEAL}{_digest(text)}\n{text}"


def _digest(text: str) -> str:
  return hashlib.sha256(text.encode()).hexdigest()


def open_checked(
  path, allowed: Collection[str] = (), needed: gin_slice.Needed | None = None
) -> io.StringIO:
  """Opens a run's config.gin for gin, once it is known to be whole and safe.

  Args:
    path: the file.
    allowed: modules and packages that it may import besides our own. If there
      are any, the folders that it names can be imported from.
    needed: opens only what these parameters need (gin_slice.py), so that
      nothing else is imported; None opens all.

  Raises:
    ConfigError: the file is cut short, edited, or does what it may not.
  """
  text = _read(path)
  if allowed:
    user_modules.add_recorded(text)
  if needed is not None:
    statements = list(_statements(text, path))
    _check_imports([one for one, _ in statements], text, path, allowed)
    text = gin_slice.take(text, statements, needed)
  _check(text, path, allowed)
  return _file(text, path)


def foreign_imports() -> list[str]:
  """Returns the packages of others that the loaded configuration imports."""
  lines = gin_errors.import_lines(gin.config_str())
  modules = gin_errors.imported_names(lines).values()
  tops = {module.partition(".")[0] for module in modules}
  return sorted(tops - {*_OURS, "__gin__"})


def _read(path) -> str:
  try:
    text = epath.Path(path).read_bytes().decode("utf-8")
  except UnicodeDecodeError as error:
    raise ConfigError(f"{path} is damaged: it is not UTF-8 ({error})") from None
  match = re.match(rf"{_SEAL}(\w{{64}})\n", text)
  if match and match[1] != _digest(text[match.end() :]):
    raise ConfigError(
      f"{path} is damaged: it has been cut or edited since it was written; "
      "restore it from a copy (for an edit that is meant, delete its first "
      "line; better, leave it and change values by --gin.NAME=VALUE)"
    )
  if not re.search(r"^[^#\s]", text, re.M):
    raise ConfigError(
      f"{path} is damaged: it has no bindings; restore it from a copy"
    )
  return text


def _file(text, path) -> io.StringIO:
  file = io.StringIO(text)
  file.name = str(path)  # For gin's messages.
  return file


class _References(gin.config_parser.ParserDelegate):
  """Collects the names of references instead of resolving them."""

  def __init__(self):
    self._names: list[str] = []

  def configurable_reference(self, scoped_configurable_name, evaluate):
    self._names.append(scoped_configurable_name.rpartition("/")[2])
    return scoped_configurable_name

  def macro(self, macro_name):
    self._names.append(f"{gin_slice.MACRO}{macro_name}")
    return macro_name

  def take(self) -> list[str]:
    """Returns the names since the last call."""
    names, self._names = self._names, []
    return names


def _statements(text, path) -> Iterator[tuple[Any, list[str]]]:
  """Yields each statement with the configurables that it names."""
  references = _References()
  parser = gin.config_parser.ConfigParser(_file(text, path), references)
  for statement in parser:
    names = references.take()
    is_block = isinstance(statement, gin.config_parser.BlockDeclaration)
    if is_block or getattr(statement, "arg_name", None):
      names.append(statement.selector)
    yield statement, names


def _check(text, path, allowed):
  """Refuses imports, includes and names of what is not allowed."""
  statements = list(_statements(text, path))
  _check_imports([one for one, _ in statements], text, path, allowed)
  symbols = {}
  for statement, names in statements:
    where = f"{path}:{statement.location.line_num}: "
    if isinstance(statement, gin.config_parser.ImportStatement):
      if not _is_gins(statement):
        symbols[statement.bound_name()] = _imported(statement)
    elif isinstance(statement, gin.config_parser.IncludeStatement):
      raise ConfigError(
        f"{where}a run's configuration includes no other file, but this one "
        f"includes {statement.filename!r}: give the files as --gin_file=FILE"
      )
    names = {n for n in names if not n.startswith(gin_slice.MACRO)}
    for name in names.difference(_BUILTINS):
      _check_name(name, symbols, where, allowed)


def _check_imports(statements, text, path, allowed):
  imports = [
    statement
    for statement in statements
    if isinstance(statement, gin.config_parser.ImportStatement)
  ]
  # Without it, names would mean whatever any library has registered.
  if not imports or not _is_gins(imports[0]):
    raise ConfigError(
      f"{path} does not begin with `from __gin__ import dynamic_registration`, "
      "as the configuration of a run does"
    )
  wrong = {
    statement.module.partition(".")[0]: statement
    for statement in imports
    if not _is_gins(statement)
    and not _is_within(statement.module, (*_OURS, *allowed))
  }
  if wrong:
    first = next(iter(wrong.values()))
    folders = user_modules.recorded(text)
    places = f" (of {', '.join(folders)})" if folders else ""
    names = ",".join([*allowed, *wrong])
    raise ConfigError(
      f"{path}:{first.location.line_num}: the run's configuration imports "
      f"{first.module}{places}, which would run that code: if you trust it, "
      f"add --allow_import={names}"
    )


def _is_gins(statement) -> bool:
  return statement.is_from and statement.module.startswith("__gin__.")


def _imported(statement):
  """Imports a module as gin does; an error says in which line of the file."""
  fromlist = [""] if statement.is_from or statement.alias else None
  with gin.config.utils.try_with_location(statement.location):
    return __import__(statement.module, fromlist=fromlist)


def _check_name(name, symbols, where, allowed):
  first, *parts = name.split(".")
  if first not in symbols:
    raise ConfigError(f"{where}'{first}' of {name} is not imported")
  found = symbols[first]
  for part in parts:
    if not hasattr(found, part):
      return  # Gin says so, and what was near.
    found = getattr(found, part)
    home = _home(found)
    if not (
      _is_within(home, allowed)
      or (not part.startswith("_") and _is_ours(found, home))
    ):
      what = f" ({home})" if home else ""
      raise ConfigError(
        f"{where}a run's configuration may not refer to {name}{what}; it may "
        "to classes of t5x_lite and tasks, to tasks and metrics, and to what "
        "--allow_import=MODULE names"
      )


def _home(found) -> str:
  """Returns the module that an object is, or was defined in."""
  name = "__name__" if inspect.ismodule(found) else "__module__"
  return getattr(found, name, None) or ""


def _is_ours(found, home) -> bool:
  """Tells whether any configuration may refer to an object."""
  if inspect.ismodule(found):
    return _is_within(home, _OURS)
  if inspect.isclass(found):
    return _is_within(home, ["tasks"]) or (
      _is_within(home, ["t5x_lite"]) and dataclasses.is_dataclass(found)
    )
  return _is_within(home, _WITH_FUNCTIONS)


def _is_within(module, packages) -> bool:
  return any(f"{module}.".startswith(f"{package}.") for package in packages)
