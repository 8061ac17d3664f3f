"""Reads gin files and bindings, and builds the objects that they describe.

Gin stays here and in gin_errors.py. A mistake in a configuration is a
`ConfigError` of one line: where it stands, what is wrong, what was near.
"""

import ast
import functools
import io
import os
import pathlib
import pprint
import re
import types

import gin
from etils import epath

import t5x_lite
from launch import (
  environment,
  gin_errors,
  gin_types,
  platform_macros,
  recorded_gin,
  user_modules,
)
from launch.gin_errors import ConfigError
from t5x_lite.files import disk
from t5x_lite.files.near_names import did_you_mean, near

# Gin would sort the keys of a mapping that it writes, but the order of the axes
# in Layout.mesh has a meaning.
gin.config.pprint = types.SimpleNamespace(
  pformat=functools.partial(pprint.pformat, sort_dicts=False)
)

_HEADER = "from __gin__ import dynamic_registration"


def _open(path) -> io.StringIO:
  """Opens a gin file, local or remote; modules beside it can be imported."""
  try:
    text = epath.Path(path).read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as error:
    raise ConfigError(f"{path} is not UTF-8: {error}") from None
  user_modules.add_recorded(text)
  folder = pathlib.Path(path).resolve().parent
  is_shipped = folder.is_relative_to(shipped_folder() / "gin")
  if "://" not in str(path) and not is_shipped:
    user_modules.add(folder)
  file = io.StringIO(text)
  file.name = str(path)  # For gin's messages.
  return file


def _is_remote_file(path) -> bool:
  return "://" in path and epath.Path(path).exists()


def shipped_folder() -> pathlib.Path:
  """Returns the folder that holds `gin/`, in a wheel or in a checkout."""
  package = pathlib.Path(t5x_lite.__file__).resolve().parent
  inside = package / "gin_files"
  return inside if inside.is_dir() else package.parent


def load(
  files=(),
  bindings=(),
  search_paths=(),
  *,
  recorded=None,
  allowed=(),
  accelerator=None,
  started_with=None,
  needed=None,
):
  """Replaces gin's configuration by what the files and bindings say.

  Both `gin/models/palm/tiny.gin` and `models/palm/tiny.gin` name a shipped
  file, from any directory; the current directory comes first, then
  `search_paths`. Modules in the folder of a gin file or in `search_paths` can
  be imported by gin files (user_modules.py).

  Args:
    files: gin files, later ones win.
    bindings: `NAME=VALUE` lines, which win over the files. Names of modules
      need no import; a bare word is a string.
    search_paths: further folders to look for files and modules in.
    recorded: the config.gin of a run directory, read first. Unlike `files`, it
      is not trusted (recorded_gin.py).
    allowed: modules that `recorded` may import besides our own.
    accelerator: whether macros that say "auto" are for an accelerator; None
      asks what there is.
    started_with: the config.gin of the run that goes on, or None
      (platform_macros.py).
    needed: what to read of `recorded` (gin_slice.Needed); None means all.

  Raises:
    ConfigError: an unknown file, module, configurable or parameter; a value
      that cannot be read; a macro without a value.
  """
  gin.clear_config()
  user_modules.forget()
  for folder in search_paths:
    if "://" not in folder and not os.path.isdir(folder):
      raise ConfigError(f"--gin_search_paths={folder} is no folder")
    user_modules.add(folder)
  shipped = shipped_folder()
  folders = [*search_paths, str(shipped), str(shipped / "gin")]
  # Gin can add folders but not forget them, and its second reader (files
  # inside Python packages) logs an error for each folder it finds nothing in.
  gin.config._LOCATION_PREFIXES[:] = ["", *folders]
  gin.config._FILE_READERS[:] = [
    (_open, os.path.isfile),
    (_open, _is_remote_file),
  ]
  if recorded is not None:
    with gin_errors.explained():
      gin.parse_config(recorded_gin.open_checked(recorded, allowed, needed))
  for file in files:
    with gin_errors.explained(folders=folders):
      gin.parse_config_file(str(file))
  if bindings:
    _parse_bindings([_binding(binding) for binding in bindings])
  if accelerator is None:
    accelerator = environment.has_accelerator()
  platform_macros.settle(accelerator=accelerator, started_with=started_with)
  gin_types.check()
  with gin_errors.explained():
    gin.finalize()


def _parse_bindings(lines):
  imports = gin_errors.import_lines(gin.config_str())
  known = gin_errors.imported_names(imports)
  for name in _first_names(lines):
    package = gin_errors.package_of(name)
    if name not in known and package:
      imports.append(f"from {package} import {name}")
    elif name not in known and name in user_modules.names():
      imports.append(f"import {name}")
  header = "\n".join([_HEADER, *(i for i in imports if i != _HEADER)])
  _check_macros(lines)
  for line in lines:  # One at a time, so that a message names its flag.
    with gin_errors.explained(binding=line, imports=imports):
      gin.parse_config(f"{header}\n{line}")


def _first_names(lines):
  """Finds the modules that bindings name: `a/stack.Stack.n = @mlp.Plain()`."""
  for line in lines:
    key, _, value = line.partition("=")
    selector = key.strip().rpartition("/")[2]
    if "." in selector:
      yield selector.partition(".")[0]
    yield from re.findall(r"@(?:[\w.]+/)*(\w+)\.", value)


def _check_macros(lines):
  """Refuses a macro that no file knows: gin would ignore it in silence."""
  text = gin.config_str()
  macros = {m.rpartition("/")[2] for m in re.findall(r"%([\w/]+)", text)}
  macros |= set(re.findall(r"^(\w+) =", text, re.M))
  given = [line.partition("=")[0].strip() for line in lines]
  macros |= {m for line in lines for m in re.findall(r"%(\w+)", line)}
  for name in given:
    if "." not in name and "/" not in name and name not in macros:
      raise ConfigError(
        f"--gin.{name}: no gin file uses a macro '{name}'"
        f"{did_you_mean(near(name, macros))}"
      )


def _binding(text) -> str:
  """Returns `NAME = VALUE` as gin reads it, a bare word becoming a string."""
  name, equals, value = text.partition("=")
  name, value = name.strip(), value.strip()
  if not re.fullmatch(r"(\w+/)*\w+(\.\w+)*", name) or not equals or not value:
    raise ConfigError(f"--gin.{text}: write --gin.NAME=VALUE")
  if value.lower() in ("true", "false", "none", "null"):
    if value not in ("True", "False", "None"):
      word = "None" if value.lower() == "null" else value.capitalize()
      raise ConfigError(
        f"--gin.{text}: write --gin.{name}={word} (for the string, "
        f"--gin.{name}='\"{value}\"')"
      )
  elif re.fullmatch(r"[A-Za-z_.~/][\w.~/:*?+@-]*", value):
    value = repr(value)
  elif value[0] not in "@%([{\"'":
    try:
      ast.literal_eval(value)
    except (SyntaxError, ValueError):
      raise ConfigError(
        f"--gin.{text}: '{value}' is no Python value; a string needs quotes "
        f"of its own: --gin.{name}='\"{value}\"'"
      ) from None
  return f"{name} = {value}"


def names_only(bindings, *packages) -> bool:
  """Tells whether bindings name modules of some packages only.

  Args:
    bindings: of the command line, `NAME=VALUE`.
    *packages: such as "t5x_lite"; a macro is of none of them.
  """
  names = (binding.partition("=")[0].strip() for binding in bindings)
  if not all("." in name for name in names):
    return False
  found = (gin_errors.package_of(name) for name in _first_names(bindings))
  return all(
    package and package.partition(".")[0] in packages for package in found
  )


def is_bound(cls) -> bool:
  """Tells whether the configuration says anything of a class."""
  try:
    return bool(gin.get_bindings(cls, resolve_references=False))
  except ValueError:  # Gin has never heard of it.
    return False


def bound(cls) -> dict:
  """Returns parameter -> value of what the configuration says of a class.

  Unlike `build`, it does not ask for a complete configuration.
  """
  if not is_bound(cls):
    return {}
  with gin_errors.explained():
    return gin.get_bindings(cls)


def build(cls):
  """Builds the configured instance of a class, as in `build(run.Run)`.

  Raises:
    ConfigError: the configuration does not mention the class, or gives no
      value to a parameter that needs one.
    ValueError: what the classes themselves refuse.
  """
  name = f"{cls.__module__.rpartition('.')[2]}.{cls.__qualname__}"
  if not is_bound(cls):
    raise ConfigError(
      f"no gin file binds {name}: give --gin_file=... "
      "(t5x_lite train --help shows one)"
    )
  with gin_errors.explained():
    return gin.get_configurable(cls)()


def text() -> str:
  """Returns the whole configuration as one gin file that needs no other."""
  return user_modules.record(gin.config_str())


def write(path):
  """Writes the whole configuration as a run directory's config.gin."""
  disk.write_text(epath.Path(path), recorded_gin.sealed(text()))


def operative_text() -> str:
  """Returns the part that built objects used, with their defaults."""
  return user_modules.record(gin.operative_config_str())
