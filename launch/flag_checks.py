"""Checks flags before anything is computed, and names them in messages."""

import pathlib
import re
import tempfile

from t5x_lite import checks


def fit(values, cls, *names):
  """Refuses flags that do not fit the fields of the same names of a class.

  Args:
    values: the command's flags.
    cls: a class of settings.
    *names: of flags; one that is not given passes.

  Raises:
    ValueError: naming the flag, and what its value must be.
  """
  kinds = checks.hints(cls)
  for name in names:
    value = values[name].value
    wrong = value is not None and checks.refusal(value, kinds[name])
    if wrong:
      text = wrong.text.replace(", or None", "; by default it is left out")
      raise ValueError(f"--{name}={wrong.value} {text}")


def output(values, name, *, folder=False):
  """Refuses a path that nothing can be written to.

  Args:
    values: the command's flags.
    name: of the flag, which may have no value.
    folder: whether a directory is to be written rather than a file.

  Raises:
    ValueError: naming the flag, and what is in the way.
  """
  value = values[name].value
  if not value or "://" in value:  # Object stores have no directories.
    return
  path = pathlib.Path(value).expanduser().absolute()
  if path.exists() and path.is_dir() != folder:
    there, wanted = ("file", "directory") if folder else ("directory", "file")
    raise ValueError(f"--{name}={value} is a {there}: name a {wanted}")
  above = next(p for p in (path, *path.parents) if p.is_dir() or p.is_file())
  above = above.parent if above == path and not folder else above
  try:
    with tempfile.TemporaryFile(dir=above):
      pass
  except OSError as error:
    raise ValueError(
      f"--{name}={value} cannot be written: {above}: {error.strerror}"
    ) from None


# Flags whose values are paths, by which the library names files.
_PATHS = (
  "cache_dir",
  "gin_file",
  "input",
  "json_schema",
  "model_dir",
  "output",
)


def named(line, names, arguments) -> str:
  """Returns a message of the library as a command says it.

  The library writes a parameter as NAME=VALUE and a file by its path. The
  command has a flag --NAME for some of those.

  Args:
    line: the message.
    names: of the command's flags.
    arguments: of the command, as they were given.
  """
  for argument in arguments:
    name, _, value = argument.lstrip("-").partition("=")
    if argument[:1] == "-" and value and name in _PATHS and name in names:
      if re.match(rf"{re.escape(value)}(?![\w.])", line):
        line = f"--{name}={line}"
  pattern = rf"(?<![\w.-])({'|'.join(map(re.escape, names))})=(?=[^\s=])"
  return re.sub(pattern, r"--\1=", line) if names else line
