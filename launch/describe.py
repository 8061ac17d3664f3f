"""Counts a model's parameters, FLOPs and bytes: `t5x_lite describe`."""

import math

from absl import flags

from launch import gin_slice, options

USAGE = "--gin_file=FILE [flags]"
DETAILS = """
Prints parameters by component, FLOPs per token and per step, and bytes of
parameters, gradients, optimizer state, activations and KV cache. The gin file
of a run sets the batch size, the lengths and the optimizer; for the gin file of
a model, set them by flags. Nothing is allocated or compiled. Microbatches that
are "auto" are counted as one.
"""
EXAMPLE = """
t5x_lite describe --gin_file=gin/models/t5_1_1/small.gin
t5x_lite describe --gin_file=gin/models/palm/540b.gin --json \\
  --batch_size=512 --lengths=targets=2048
"""

_DEFAULT_LENGTHS = {
  "encoder_decoder": {"inputs": 512, "targets": 114},
  "encoder": {"inputs": 512},
  "causal": {"targets": 512},
  "prefix": {"targets": 512},
}
_DEFAULT_BATCH_SIZE = 8
# Of a run's configuration; the rest would import its tasks, and TensorFlow.
_NEEDED = gin_slice.Needed(
  roots=("run.Run", "model.Model"),
  parameters={
    "run.Run": ("model", "train", "optimizer", "microbatches"),
    "data.Data": ("lengths", "batch_size"),
  },
  added={"data.Data.task": "recorded"},
)


def define(values):
  """Defines the command's flags."""
  options.gin_flags(values)
  shape_flags(values)
  options.model_dir_flag(values, "Directory of a run to describe.")
  flags.DEFINE_bool("json", False, "Print one JSON object.", flag_values=values)


def shape_flags(values):
  """Defines the flags of batch size, lengths, vocabulary and optimizer."""
  flags.DEFINE_integer(
    "batch_size", None, "Rows of a batch; by default the run's, or 8.",
    lower_bound=1, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_list(
    "lengths", [],
    "Tokens per row, as inputs=512,targets=114; by default the run's, or else "
    "these for an encoder-decoder and 512 for other models.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "vocab_size", None,
    "Vocabulary size, for a model that takes it from a tokenizer.",
    lower_bound=1, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_enum(
    "optimizer", None, ["adafactor", "adamw"],
    "Optimizer, if no gin file binds one; by default adafactor for an "
    "architecture with an encoder and adamw for others.",
    flag_values=values,
  )  # fmt: skip


def settings(values) -> dict:
  """Returns a configuration's model, optimizer, batch size and lengths.

  Raises:
    ValueError: there is no model, or its vocabulary size is not given.
  """
  from launch import config, session

  session.load(values, needed=_NEEDED)
  from t5x_lite import model as model_lib
  from t5x_lite.data import vocabulary_record
  from t5x_lite.training import run as run_lib

  run = config.bound(run_lib.Run)
  model = run.get("model") or config.build(model_lib.Model)
  train = run.get("train")
  vocab_size = values.vocab_size
  if vocab_size is None and session.names_run(values) and not values.gin_file:
    vocab_size = vocabulary_record.size(values.model_dir)
  if model.transformer.vocab_size is None and vocab_size is None:
    raise ValueError(
      "the model takes its vocabulary size from a tokenizer: give --vocab_size"
    )
  if vocab_size is not None:
    model = model.fit_vocabulary(vocab_size)
  lengths = options.parse_lengths(values.lengths)
  optimizer = run.get("optimizer")
  if optimizer is None or values.optimizer:
    optimizer = _optimizer(values.optimizer, model.row_format)
  return {
    "model": model,
    "optimizer": optimizer,
    "microbatches": run.get("microbatches", 1),
    "batch_size": values.batch_size
    or (train.batch_size if train else _DEFAULT_BATCH_SIZE),
    "lengths": lengths
    or (
      dict(train.lengths) if train else _DEFAULT_LENGTHS[model.row_format.name]
    ),
  }


def _optimizer(name, row_format):
  from t5x_lite.optim import optimizers

  if name is None:
    name = "adafactor" if "encoder" in row_format.sides else "adamw"
  if name == "adamw":
    return optimizers.AdamW(learning_rate=1e-3, weight_decay=0.1, clip_norm=1.0)
  return optimizers.Adafactor(learning_rate=1e-3)


def main(values, arguments):
  """Prints the counts."""
  options.no_arguments("describe", arguments)
  given = settings(values)
  from t5x_lite.accounting import costs
  from t5x_lite.files import json_text

  model = given.pop("model")
  if given["microbatches"] == "auto":
    # Chosen by the memory of devices, and here there are none.
    given["microbatches"] = 1
  account = costs.describe(model, **given)
  if values.json:
    # Unknown numbers (NaN) are written as null.
    print(json_text.dumps(account))
  else:
    print(_table(account, model, given))


def _table(account, model, given) -> str:
  lengths = ", ".join(f"{k} {v}" for k, v in given["lengths"].items())
  parameters = account["parameters"]
  total = parameters["total"]
  rows = [("parameters", f"{total:,}", "")]
  rows += [
    (f"  {name}", f"{count:,}", f"{count / max(total, 1):6.1%}")
    for name, count in parameters["by_component"].items()
  ]
  rows += [
    ("FLOPs per token", quantity(account["flops_per_token"]), ""),
    ("FLOPs per step", quantity(account["flops_per_step"]), ""),
    ("bytes", "", ""),
  ]
  rows += [
    (f"  {name.replace('_', ' ')}", memory(count), "")
    for name, count in account["bytes"].items()
  ]
  width = max(len(name) for name, _, _ in rows)
  lines = [f"{n:<{width}}  {v:>15}  {s}".rstrip() for n, v, s in rows]
  optimizer = type(given["optimizer"]).__name__
  name, rows = model.row_format.name, given["batch_size"]
  title = f"{name}, batch {rows}, {lengths}, {optimizer}"
  return "\n".join([title, *lines])


def quantity(number, base=1000.0) -> str:
  """Returns a large number with its prefix: 1234567 as "1.23 M"."""
  if math.isnan(number):
    return "unknown"
  for prefix in ("", "k", "M", "G", "T", "P"):
    if number < base:
      return f"{number:.3g} {prefix}".rstrip()
    number /= base
  return f"{number:.3g} E"


def memory(count) -> str:
  """Returns a number of bytes with its unit: 1536 as "1.5 KiB"."""
  if math.isnan(count):
    return "unknown"
  number, _, prefix = quantity(count, 1024.0).partition(" ")
  return f"{number} {prefix.upper()}iB" if prefix else f"{number} B"
