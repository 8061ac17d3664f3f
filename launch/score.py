"""Scores given targets under a run's model: `t5x_lite score`."""

from absl import flags

from launch import infer, options

USAGE = "--model_dir=RUN --targets=TEXT | --input=FILE --output=OUT"
DETAILS = """
Gives log p(targets | inputs) in nats, and per token. --input is JSON lines with
"inputs" and "targets" (a "text" alone, or a plain line, is scored whole by a
language model); --output is JSON lines in the same order, with null for what is
not finite. The same command again goes on where it stopped. A model that was
trained to continue its inputs is asked for the tokens that the targets have in
one text with them, after --delimiter where there is no white space; one whose
inputs end with EOS for the targets as they are.
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
    "inputs", None, "What is given; for one pair.", flag_values=values
  )
  flags.DEFINE_string(
    "targets", None, "What is scored; for one pair.", flag_values=values
  )
  flags.DEFINE_bool(
    "per_token", False, "Also list the log-likelihood of each token.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "delimiter", None,
    "What stands between inputs and the targets that continue them; by default "
    "what the run's task has there, a space.",
    flag_values=values,
  )  # fmt: skip
  options.gin_flags(values, on_top=True)
  options.process_flags(values)


def main(values, arguments):
  """Scores the pair of the flags, or those of a file."""
  options.no_arguments("score", arguments)
  options.require(values, "model_dir")
  infer.check_source(values, values.targets is not None, "--targets")
  from launch import session

  restored = session.restore(values)
  from t5x_lite.inference import infer as library

  job = library.Score(
    model=restored.model,
    codec=restored.codec(truncate=values.truncate, delimiter=values.delimiter),
    per_token=values.per_token,
  )
  pair = {"inputs": values.inputs, "targets": values.targets}
  record = {name: text for name, text in pair.items() if text is not None}
  infer.finish(job, restored, [record], values, _show)


def _show(result) -> str:
  lines = [
    f"log-likelihood {result['log_likelihood']:.4f} nats, "
    f"{result['num_tokens']} tokens, "
    f"{result['log_likelihood_per_token']:.4f} per token"
  ]
  if "token_log_likelihoods" in result:
    lines.append(f"per token: {result['token_log_likelihoods']}")
  return "\n".join(lines)
