"""Defines, parses and documents the flags of one command.

Each command has its own `absl.flags.FlagValues`, so its help page lists only
its own flags, and other commands' flags are unknown.
"""

import math
import re
import textwrap

from absl import flags

from t5x_lite.files.near_names import did_you_mean, near

_WIDTH = 78


def gin_flags(values, *, on_top=False):
  """Defines the gin flags, as in T5X.

  Args:
    values: the command's flags.
    on_top: whether they change the configuration of an existing run.
  """
  flags.DEFINE_multi_string(
    "gin_file",
    [],
    "Gin file; may be given several times, later ones override earlier ones. "
    "Searched in the current directory, --gin_search_paths, and the files "
    "shipped with t5x_lite."
    + (" Applied on top of the run's own configuration." if on_top else ""),
    flag_values=values,
  )
  flags.DEFINE_multi_string(
    "gin_bindings",
    [],
    "One binding, NAME=VALUE; --gin.NAME=VALUE is short for it. NAME may be "
    "a macro (TASK), a parameter (run.Run.seed) or a scoped one "
    "(decoder/stack.Stack.num_layers).",
    flag_values=values,
  )
  flags.DEFINE_list(
    "gin_search_paths",
    [],
    "Folders to search for gin files and for modules that they import, "
    "separated by commas.",
    flag_values=values,
  )


def model_dir_flag(values, help_text):
  """Defines --model_dir, the run's directory, and --allow_import."""
  flags.DEFINE_string("model_dir", None, help_text, flag_values=values)
  allow_import_flag(values)


def allow_import_flag(values):
  """Defines the flag that lets a run directory's gin import modules."""
  flags.DEFINE_list(
    "allow_import",
    [],
    "Modules that the configuration in a run's directory may import and call, "
    "besides t5x_lite and tasks, separated by commas. They are run: name only "
    "what you trust. --gin_file and --gin are not restricted.",
    flag_values=values,
  )


def process_flags(values):
  """Defines the flags that connect the processes of a multi-process run."""
  flags.DEFINE_string(
    "coordinator_address",
    None,
    "HOST:PORT of process 0, for a run of several processes. TPU pods, SLURM "
    "and Open MPI are detected and need none of these three flags.",
    flag_values=values,
  )
  flags.DEFINE_integer(
    "num_processes", None, "Number of processes of the run.",
    lower_bound=1, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "process_id", None, "Index of this process, from 0.",
    lower_bound=0, flag_values=values,
  )  # fmt: skip


def flags_of(name, command) -> flags.FlagValues:
  """Returns the flags of a command, not yet parsed."""
  values = flags.FlagValues()
  values.set_gnu_getopt(True)  # `tasks NAME --num_examples=2` works.
  command.define(values)
  for flag in names(values):
    values[flag].module = name
  return values


def parse(name, values, argv) -> list[str]:
  """Parses a command's arguments.

  Args:
    name: the command.
    values: its flags, which are set here.
    argv: the arguments after the command's name.

  Returns:
    The arguments that are not flags.

  Raises:
    ValueError: an unknown flag (with near matches) or a bad value.
  """
  try:
    arguments = values([name, *map(_gin_flag, argv)])[1:]
  except flags.UnrecognizedFlagError as error:
    found = near(error.flagname, names(values))
    hint = did_you_mean([f"--{flag}" for flag in found])
    raise ValueError(
      f"'{name}' has no flag --{error.flagname}{hint} "
      f"(t5x_lite {name} --help lists them)"
    ) from None
  except flags.Error as error:
    raise ValueError(str(error).replace("\n", " ")) from None
  for flag in names(values):
    # A seed has 64 bits; the sizes of arrays have 32.
    most = 2**63 if flag == "seed" else 2**31
    number = values[flag].value
    if isinstance(number, float) and not math.isfinite(number):
      raise ValueError(f"--{flag}={number} must be a finite number")
    if isinstance(number, int) and not -most < number < most:
      raise ValueError(f"--{flag}={number} must be below {most} in magnitude")
  return arguments


def _gin_flag(argument):
  """Rewrites --gin.NAME=VALUE as --gin_bindings=NAME=VALUE."""
  match = re.match(r"--?gin\.(.*)", argument, re.DOTALL)
  if not match:
    return argument
  if "=" not in match[1]:
    raise ValueError(f"{argument} has no value: write {argument}=VALUE")
  return f"--gin_bindings={match[1]}"


def names(values):
  """Returns the names of a command's own flags, in order of definition."""
  own = {"help", "helpfull", "helpshort", "helpxml", "flagfile", "undefok"}
  own |= {"only_check_args", "pdb", "pdb_post_mortem", "run_with_pdb"}
  return [flag for flag in values if flag not in own]


def help_page(name, summary, command, values) -> str:
  """Returns a command's help page: usage, description, flags, example."""
  lines = [f"usage: t5x_lite {name} {command.USAGE}", ""]
  lines += textwrap.wrap(f"{summary[0].upper()}{summary[1:]}.", _WIDTH)
  if command.DETAILS:
    lines += ["", *command.DETAILS.strip().splitlines()]
  lines += ["", "flags:"]
  for flag in names(values):
    lines += _flag_lines(values[flag])
  lines += ["", "example:"]
  lines += [f"  {line}" for line in command.EXAMPLE.strip().splitlines()]
  return "\n".join(lines)


def _flag_lines(flag):
  value = "" if flag.boolean else "=..."
  if choices := getattr(flag.parser, "enum_values", None):
    value = f"={'|'.join(choices)}"
  prefix = "--[no]" if flag.boolean else "--"
  default = flag.default
  if default in (None, [], "", False):
    tail = ""
  elif isinstance(default, list):
    tail = f" Default: {','.join(map(str, default))}."
  else:
    tail = f" Default: {default}."
  name = flag.name
  if name == "gin_bindings":
    name = "gin.NAME=VALUE, --gin_bindings"
  # Remove absl's hints on lists and repetition: our help texts have their own.
  text = re.sub(r";\s+repeat this option.*", "", flag.help, flags=re.DOTALL)
  text = re.sub(r"^<[^>]*>: ", "", text)
  body = textwrap.wrap(f"{text}{tail}", _WIDTH - 6)
  return [f"  {prefix}{name}{value}", *(f"      {line}" for line in body)]


def no_arguments(name, arguments):
  """Refuses positional arguments.

  Raises:
    ValueError: there are some.
  """
  if arguments:
    raise ValueError(
      f"'{name}' takes only flags, not '{' '.join(arguments)}' "
      f"(t5x_lite {name} --help)"
    )


def require(values, *names):
  """Checks that required flags are given.

  Raises:
    ValueError: some are missing.
  """
  missing = [f"--{name}" for name in names if not values[name].value]
  if missing:
    raise ValueError(f"give {' and '.join(missing)}")


def parse_lengths(given) -> dict[str, int]:
  """Parses ["inputs=128", "targets=64"].

  Raises:
    ValueError: an entry is not NAME=NUMBER.
  """
  lengths = {}
  for entry in given:
    name, _, number = entry.partition("=")
    if not re.fullmatch(r"[1-9]\d{0,8}", number):
      raise ValueError(
        f"--lengths has '{entry}'; write it as inputs=128,targets=64"
      )
    lengths[name] = int(number)
  return lengths
