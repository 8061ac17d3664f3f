"""Runs the `t5x_lite` command: chooses the subcommand, reports errors.

It imports neither JAX nor TensorFlow, so that `t5x_lite --help` is fast.
"""

import importlib
import os
import sys

import t5x_lite
from launch import environment, errors, flag_checks, options
from t5x_lite.files.near_names import did_you_mean, near
from t5x_lite.files.slow import announced

# {name: summary}. Each command is a module of this package.
COMMANDS = {
  "train": "train the model that a gin config describes",
  "eval": "evaluate a run on held-out data",
  "infer": "fill in or continue texts with a run's model",
  "score": "compute the log-likelihood of targets under a run's model",
  "describe": "count parameters, FLOPs and bytes without building the model",
  "plan": "plan a step on accelerators that are not here: memory and speed",
  "tasks": "list tasks and mixtures, or show what an objective does to text",
  "cache": "tokenize a task once, and store the result",
  "vocab": "train a SentencePiece vocabulary on text files",
  "convert": "convert weights from and to Hugging Face",
  "inspect-activations": "show a model's hidden states and attention on a text",
  "measure": "measure a run's bits per byte on held-out text",
  "ablate": "run a study: many arms, one budget, one report",
  "bench": "measure training speed and memory on synthetic tokens",
}
# Commands that compute on the device: they get the fast CPU settings.
_COMPUTE = (
  "train", "eval", "infer", "score", "inspect-activations", "bench", "measure",
  "ablate",
)  # fmt: skip

_HELP = ("--help", "-h", "-help", "--h", "help")


def main(argv=None) -> int:
  """Runs one command.

  Args:
    argv: the arguments after the program's name; `sys.argv` by default.

  Returns:
    The exit status: 0 done, 2 the user's mistake, 130 interrupted. Training
    has two more: 75 stopped by SIGTERM, 69 another process was lost.
  """
  as_program = argv is None
  argv = sys.argv[1:] if as_program else list(argv)
  try:
    return _dispatch(argv, as_program)
  except KeyboardInterrupt:
    print("\nt5x_lite: interrupted", file=sys.stderr)
    return 130
  except BrokenPipeError:
    # The reader (`| head`) has exited: exit quietly, as Unix tools do.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except Exception as error:
    if "jax" in sys.modules:
      from t5x_lite.devices import lost_process

      lost_process.end_if_lost(error)
    line = errors.user_line(error)
    if line is None:
      raise
    print(f"t5x_lite: error: {_with_flags(line, argv)}", file=sys.stderr)
    return 2


def _with_flags(line, argv) -> str:
  """Names the flags of the command in a message of the library."""
  if not argv or argv[0] not in COMMANDS:
    return line
  names = options.names(options.flags_of(argv[0], _module(argv[0])))
  return flag_checks.named(line, names, argv[1:])


def _module(name):
  return importlib.import_module(f"launch.{name.replace('-', '_')}")


def _dispatch(argv, as_program) -> int:
  if not argv or argv[0] in _HELP:
    if len(argv) > 1 and argv[0] == "help":
      return _dispatch([argv[1], "--help"], as_program)
    print(_overview())
    return 0
  if argv[0] in ("--version", "version"):
    print(f"t5x_lite {t5x_lite.__version__}")
    return 0
  name, *rest = argv
  if name not in COMMANDS:
    hint = did_you_mean(near(name, COMMANDS))
    raise ValueError(
      f"unknown command '{name}'{hint} (commands: {', '.join(COMMANDS)})"
    )
  command = _module(name)
  values = options.flags_of(name, command)
  if any(argument in _HELP[:-1] for argument in rest):
    print(options.help_page(name, COMMANDS[name], command, values))
    return 0
  arguments = options.parse(name, values, rest)
  environment.prepare(compute=name in _COMPUTE, restart=as_program)
  with announced(name):  # Whatever is slow, and has no line of its own.
    return command.main(values, arguments) or 0


def _overview() -> str:
  width = max(map(len, COMMANDS))
  commands = "\n".join(
    f"  {n:<{width}}  {what}" for n, what in COMMANDS.items()
  )
  return f"""t5x_lite {t5x_lite.__version__}: which Transformer, with which \
objective, under which budget?

usage: t5x_lite COMMAND [flags]

{commands}

For the flags of a command: t5x_lite COMMAND --help
Configurations are gin files (--gin_file, repeatable). To override a value on
the command line, use --gin.NAME=VALUE, for example:

  t5x_lite train --gin_file=gin/runs/quickstart.gin --model_dir=runs/mine \\
    --gin.run.Run.total_steps=200"""


if __name__ == "__main__":
  sys.exit(main())
