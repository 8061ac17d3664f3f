"""Scores targets under a run's model: `t5x_lite score`."""

from absl import flags

from launch import flag_checks, infer, options

USAGE = "--model_dir=DIR --targets=TEXT | --input=FILE --output=OUT"
DETAILS = """
Computes log p(targets | inputs) in nats, and per token. --input is JSON Lines
with "inputs" and "targets". For a language model, a "text" alone, or a plain
line, is scored as a whole. --output is JSON Lines in the same order; numbers
that are not finite are written as null. The same command resumes an interrupted
job. If the model was trained to continue its inputs, inputs and targets are
tokenized as one text, joined by --delimiter unless there is white space. If its
inputs end with EOS, they are tokenized separately.
"""
EXAMPLE = """
t5x_lite score --model_dir=runs/quickstart --input=pairs.jsonl \\
  --output=scores.jsonl
t5x_lite score --model_dir=runs/quickstart \\
  --inputs="A <extra_id_0> of items." --targets="<extra_id_0> list"
"""


def define(values):
  """Defines the command's flags."""
  infer.run_flags(values)
  flags.DEFINE_string(
    "inputs", None, "The inputs of one pair.", flag_values=values
  )
  flags.DEFINE_string(
    "targets",
    None,
    "The targets of one pair, which are scored.",
    flag_values=values,
  )
  flags.DEFINE_bool(
    "per_token", False, "Also list the log-likelihood of each token.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "delimiter", None,
    "Text between inputs and the targets that continue them; by default the "
    "delimiter of the run's task, or a space.",
    flag_values=values,
  )  # fmt: skip
  options.gin_flags(values, on_top=True)
  options.process_flags(values)


def main(values, arguments):
  """Scores the pair given by flags, or the pairs of a file."""
  options.no_arguments("score", arguments)
  options.require(values, "model_dir")
  infer.check_source(values, values.targets is not None, "--targets")
  flag_checks.output(values, "output")
  from launch import loading

  model = loading.of_flags(values)
  job = model.scoring(
    per_token=values.per_token,
    truncate=values.truncate,
    delimiter=values.delimiter,
  )
  pair = {"inputs": values.inputs, "targets": values.targets}
  record = {name: text for name, text in pair.items() if text is not None}
  infer.finish(job, model, [record], values, _show)


def _show(result) -> str:
  lines = [
    f"log-likelihood {result['log_likelihood']:.4f} nats, "
    f"{result['num_tokens']} tokens, "
    f"{result['log_likelihood_per_token']:.4f} per token"
  ]
  if "token_log_likelihoods" in result:
    lines.append(f"per token: {result['token_log_likelihoods']}")
  return "\n".join(lines)
