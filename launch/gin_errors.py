"""Explains gin's errors in one line: where, what, and what was near."""

import contextlib
import importlib.util
import inspect
import os
import pathlib
import re

import gin

from launch import user_modules
from t5x_lite.files.near_names import did_you_mean, near

# Where gin's modules live: on the command line `positions.Rope` needs no
# import and means t5x_lite.nn.positions.Rope.
_PACKAGES = (
  "t5x_lite", "t5x_lite.nn", "t5x_lite.optim", "t5x_lite.devices",
  "t5x_lite.decoding", "t5x_lite.training", "t5x_lite.ablation", "tasks",
)  # fmt: skip


class ConfigError(ValueError):
  """Says in one line what is wrong with a configuration."""


@contextlib.contextmanager
def explained(*, folders=(), binding=None, imports=()):
  """Turns what gin raises inside into a `ConfigError`.

  Args:
    folders: where gin files were looked for, to name near ones.
    binding: the command line's binding being parsed, to name it.
    imports: the import statements that hold for the binding.
  """
  try:
    yield
  except ConfigError:
    raise
  except Exception as error:
    message = _explain(error, folders, binding, list(imports))
    if message is None:
      raise
    raise ConfigError(message) from error


def package_of(module) -> str | None:
  """Returns the package that holds a module of ours, by its short name."""
  for package in _PACKAGES:
    try:
      if importlib.util.find_spec(f"{package}.{module}"):
        return package
    except ModuleNotFoundError:  # The package itself cannot be imported here.
      continue
  return None


def import_lines(text) -> list[str]:
  """Returns the import statements of a gin file's text."""
  return re.findall(r"^(?:from \S+ )?import .*?(?=\s*(?:#.*)?$)", text, re.M)


def imported_names(imports) -> dict[str, str]:
  """Returns bound name -> module of import statements."""
  names = {}
  for line in imports:
    words = line.split()
    alias = words[-1] if "as" in words else None
    if words[0] == "from":
      names[alias or words[3]] = f"{words[1]}.{words[3]}"
    elif alias:
      names[alias] = words[1]
    else:
      names[words[1].partition(".")[0]] = words[1].partition(".")[0]
  return names


def _explain(error, folders, binding, imports) -> str | None:
  text = str(error)
  where, file = _location(error, binding)
  if file and not binding:
    imports = import_lines(pathlib.Path(file).read_text())
  names = imported_names(imports)
  # The first line is the mistake, the rest says where.
  first = text.partition("\n")[0].strip()

  if isinstance(error, SyntaxError):
    return f"{where}{_syntax(error)}"
  if match := re.match(r"Unable to open file: (.*)\. Searched", first):
    return f"{where}no gin file {match[1]}{_near_files(match[1], folders)}"
  if isinstance(error, ModuleNotFoundError):
    return _module(first, where, names)
  if not _raised_by_gin(error):
    return _missing_values(text)
  if match := re.search(r"Configurable '(.*)' doesn't have a parame.* '(.*)'",
                        first):  # fmt: skip
    selector, parameter = match.groups()
    found = did_you_mean(
      near(parameter, _parameters(_resolve(selector, names)))
    )
    return f"{where}{selector} has no parameter '{parameter}'{found}"
  if match := re.match(r"Couldn't resolve selector ([\w.]+);", first):
    parent, _, name = match[1].rpartition(".")
    found = did_you_mean(near(name, _public(_resolve(parent, names))))
    return f"{where}{parent} has no '{name}'{found}"
  if match := re.match(r"'(\w+)' was not provided by an import", first):
    return f"{where}{_no_import(match[1], names)}"
  if match := re.match(r"No bindings specified for '(.*)/gin.macro'", first):
    return f"{where}the macro %{match[1]} is used but has no value"
  if match := re.match(r"(\S+?)(/macro.value)? set to `%gin.REQUIRED`", first):
    return f"{match[1]} must be set: --gin.{match[1]}=VALUE"
  if re.match("No configurable matching", first) and not names:
    return (
      f"{where}{first} Gin files begin with the line "
      "`from __gin__ import dynamic_registration`, then one import a line"
    )
  if isinstance(error, ValueError | NameError | AttributeError | TypeError):
    return f"{where}{first}"
  return None


def _location(error, binding):
  """Returns ("FILE:LINE: ", FILE), of the innermost file where several."""
  if binding:
    return f"--gin.{binding.replace(' = ', '=', 1)}: ", None
  if isinstance(error, SyntaxError) and error.filename:
    return f"{error.filename}:{error.lineno}: ", error.filename
  match = re.search(r'In file "(.*)", line (\d+)', str(error))
  return (f"{match[1]}:{match[2]}: ", match[1]) if match else ("", None)


def _syntax(error) -> str:
  token = re.search(r"Failed to parse token '(.*)'", error.msg or "")
  if token:
    return f"'{token[1]}' is no Python value; a string needs quotes"
  line = (error.text or "").strip()
  message = (error.msg or "").splitlines()[0].rstrip(".")
  return f"{message}: {line}" if line else message


def _near_files(name, folders) -> str:
  """Lists gin files with a like path or the same last name."""
  files = {}  # Path without a leading gin/ -> as one would write it.
  for folder in map(pathlib.Path, ("gin", *folders)):
    prefix = "gin/" if folder.name == "gin" else ""
    for path in folder.rglob("*.gin") if prefix else folder.glob("*.gin"):
      relative = path.relative_to(folder).as_posix()
      files.setdefault(relative, prefix + relative)
  wanted = re.sub(r"^gin/", "", name)
  found = near(wanted, files, cutoff=0.7)
  last = os.path.basename(name)
  found += [file for file in files if os.path.basename(file) == last]
  if not found:
    return f" (looked in {', '.join(['.', *folders])})"
  found = [files[file] for file in list(dict.fromkeys(found))[:3]]
  return did_you_mean(found)


def _module(text, where, names) -> str | None:
  """Explains an import of a module that is not there, if a file asks for it."""
  match = re.match(r"No module named '([\w.]+)'", text)
  if not match or match[1] not in names.values():
    return None  # A dependency is missing: no matter of the gin file.
  package, _, name = match[1].rpartition(".")
  if package:
    hint = did_you_mean(near(name, _modules(package)))
    return f"{where}no module {match[1]}{hint}"
  ours = {package.partition(".")[0] for package in _PACKAGES}
  found = did_you_mean(near(name, ours | user_modules.names()))
  if not found:
    looked_in = ", ".join(user_modules.folders())
    found = (
      f" in {looked_in}: give the folder that holds it as "
      "--gin_search_paths=FOLDER"
    )
  return f"{where}no module {name}{found}"


def _no_import(name, names) -> str:
  if package := package_of(name):
    return f"add the line `from {package} import {name}` for '{name}'"
  if name in user_modules.names():
    return f"add the line `import {name}` for '{name}'"
  known = set(names).union(*map(_modules, _PACKAGES))
  return f"no module '{name}'{did_you_mean(near(name, known))}"


def _resolve(selector, names):
  """Returns the object that a selector means, or None."""
  first, *rest = selector.split(".")
  try:
    found = importlib.import_module(names[first])
    for name in rest:
      found = getattr(found, name)
  except (KeyError, ImportError, AttributeError):
    return None
  return found


def _parameters(configurable) -> list[str]:
  if configurable is None:
    return []
  own = inspect.signature(configurable).parameters
  return [name for name in own if name not in ("parent", "name")]


def _public(module) -> set[str]:
  """Returns the names that a gin file could mean in a module or package."""
  if module is None:
    return set()
  return {n for n in vars(module) if n[0] != "_"} | _modules(module.__name__)


def _modules(package) -> set[str]:
  """Returns the short names of what a package holds, importing none of it."""
  try:
    spec = importlib.util.find_spec(package) if package else None
  except ModuleNotFoundError:
    spec = None
  folders = spec.submodule_search_locations or () if spec else ()
  patterns = ("[!_]*.py", "[!_]*/__init__.py")
  paths = [
    p for f in folders for n in patterns for p in pathlib.Path(f).glob(n)
  ]
  return {p.parent.name if p.stem == "__init__" else p.stem for p in paths}


def _raised_by_gin(error) -> bool:
  frame = inspect.getinnerframes(error.__traceback__)[-1]
  # By the package's whole path: a user's own modules may lie in a `gin/` too.
  return (
    pathlib.Path(gin.__file__).parent in pathlib.Path(frame.filename).parents
  )


def _missing_values(text) -> str | None:
  """Explains a constructor that lacks arguments which gin should give."""
  match = re.search(r"missing \d+ required [\w-]+ arguments?: (.*)", text)
  place = re.search(
    r"In call to configurable '(\w+)' \(<class '(?:\w+\.)*?(\w+)\.\w+'>\)"
    r"(?: in scope '(\S+)')?",
    text,
  )
  if not match or not place:
    return None
  scope = f"{place[3]}/" if place[3] else ""
  name = f"{scope}{place[2]}.{place[1]}"
  lacking = re.findall(r"'(\w+)'", match[1])
  bindings = ", ".join(f"{name}.{parameter}" for parameter in lacking)
  return f"the configuration gives no value to {bindings}"
