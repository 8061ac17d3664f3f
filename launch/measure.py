"""Measures a run's bits per byte on held-out text: `t5x_lite measure`."""

from absl import flags

from launch import options

USAGE = "--model_dir=RUN [flags]"
DETAILS = """
Measures bits per byte of the second half of held-out excerpts given the first
(continuation), and of a span in their middle (infilling). Models of any
objective and tokenizer can be compared by these. Bytes are those of the
original text; bytes that the tokenizer loses (their share is "lost") cost 8
bits each. A model is scored in the prompt format that suits it best. Suites of
tasks (downstream.Suite) are measured by their own metrics. The amount of text
and the suites are set in gin, by measures.Measures. Writes RUN/measures.json.
"""
EXAMPLE = """
t5x_lite measure --model_dir=runs/quickstart
t5x_lite measure --model_dir=runs/quickstart \\
  --gin.measures.Measures.documents=200
"""

FILE = "measures.json"


def define(values):
  """Defines the command's flags."""
  options.gin_flags(values)
  options.model_dir_flag(values, "Directory of the run.")
  flags.DEFINE_integer(
    "step", None, "Checkpoint; by default the newest.", lower_bound=0,
    flag_values=values,
  )  # fmt: skip
  options.process_flags(values)


def main(values, arguments):
  """Measures the run, prints a summary, and writes all numbers to a file."""
  options.no_arguments("measure", arguments)
  options.require(values, "model_dir")
  from launch import config, session

  restored = session.restore(values)
  import jax

  from t5x_lite.ablation import measures
  from t5x_lite.evaluation import evaluate
  from t5x_lite.files import json_text

  settings = measures.Measures()
  if config.is_bound(measures.Measures):
    settings = config.build(measures.Measures)
  found = measures.measure(
    settings,
    restored.model,
    restored.params,
    restored.task,
    layout=restored.layout,
  )
  evaluate.write({"step": restored.step, **found}, f"{values.model_dir}/{FILE}")
  if jax.process_index() == 0:
    shown = {
      kind: {k: found[kind][k] for k in ("bits_per_byte", "lost", "format")}
      for kind in measures.KINDS
      if kind in found
    }
    if "probe" in found:
      shown["linear probe"] = sum(found["probe"]) / len(found["probe"])
    shown |= {name: one["score"] for name, one in found["suites"].items()}
    print(json_text.dumps({"step": restored.step, **shown}, indent=2))
