"""Generates text with a run's model: `t5x_lite infer`."""

import dataclasses
import itertools
import re
import sys

from absl import flags

from launch import flag_checks, options

USAGE = "--model_dir=RUN --text=TEXT | --input=FILE --output=FILE"
DETAILS = """
A model of span corruption fills in blanks, written ___ or <extra_id_0>,
<extra_id_1>, ...; a language model continues the text. --input is a file of
JSON Lines, with "inputs" or "text" in each object, or of one text per line; it
may be compressed. --output is JSON Lines in the same order. It keeps all other
fields; NaN is written as null. The same command resumes an interrupted job.
Decoding is greedy unless flags or the run (run.Run.sampler, for example from a
converted model's generation_config.json) set a sampler; --top_k=1 is greedy.
"""
EXAMPLE = """
t5x_lite infer --model_dir=runs/quickstart --text="A list is ___ of items."
t5x_lite infer --model_dir=runs/quickstart --input=questions.jsonl \\
  --output=answers.jsonl --temperature=0.8 --top_p=0.95
"""


def define(values):
  """Defines the command's flags."""
  run_flags(values)
  flags.DEFINE_multi_string(
    "text", [], "A text; may be given several times.", flag_values=values
  )
  flags.DEFINE_float(
    "temperature", None, "Sample at this temperature.", flag_values=values
  )
  flags.DEFINE_integer(
    "top_k", None, "Sample from this many most probable tokens.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_float(
    "top_p", None, "Sample from the most probable tokens with this total "
    "probability.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "max_new_tokens", None,
    "Maximum number of new tokens; by default that of run.Run.constraints, or "
    "the length of the targets.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "num_samples", 1, "Samples per text.", lower_bound=1, upper_bound=10_000,
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer("seed", 0, "Seed of sampling.", flag_values=values)
  options.gin_flags(values, on_top=True)
  options.process_flags(values)


def run_flags(values):
  """Defines the flags that `infer` and `score` share."""
  options.model_dir_flag(values, "Directory of the run to use.")
  flags.DEFINE_integer(
    "step", None, "Checkpoint to use; by default the newest.", lower_bound=0,
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string("input", None, "File of texts.", flag_values=values)
  flags.DEFINE_string(
    "output", None, "The .jsonl file to write.", flag_values=values
  )
  flags.DEFINE_bool(
    "truncate", False, "Truncate texts that are too long; else refuse them.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "batch_size", 32, "Texts per batch.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_bool(
    "json", False, "Print one JSON object per line.", flag_values=values
  )


def main(values, arguments):
  """Generates predictions for the texts of the flags, or of a file."""
  options.no_arguments("infer", arguments)
  options.require(values, "model_dir")
  check_source(values, bool(values.text), "--text")
  samples = values.num_samples
  if samples > 1 and values.input:
    raise ValueError(
      "--num_samples works with --text only; for a file, run the command once "
      "per --seed"
    )
  from launch import environment, session

  with environment.importing():
    from t5x_lite import decoding
    from t5x_lite.inference import infer

  flag_checks.fit(values, decoding.Sample, "temperature", "top_k", "top_p")
  flag_checks.fit(values, infer.Generate, "max_new_tokens", "seed")
  flag_checks.output(values, "output")
  restored = session.restore(values)
  vocab_size = restored.task.vocab_size
  if values.top_k is not None and values.top_k > vocab_size:
    raise ValueError(
      f"--top_k={values.top_k} is more than the {vocab_size} tokens of the "
      "vocabulary: give fewer, or leave it out"
    )
  sampler = _sampler(values, restored.sampler)
  if samples > 1 and sampler == decoding.GREEDY:
    raise ValueError(
      f"--num_samples={samples} needs sampling, as greedy samples are all the "
      "same: add --temperature, --top_k or --top_p"
    )
  job = infer.Generate(
    model=restored.model,
    codec=restored.codec(truncate=values.truncate),
    max_new_tokens=values.max_new_tokens,
    sampler=sampler,
    constraints=restored.constraints,
    seed=values.seed,
  )
  texts = [{"text": blanks(t)} for t in values.text for _ in range(samples)]
  finish(job, restored, texts, values, _show)


def _sampling(values) -> dict[str, float]:
  """Returns the sampling settings of the flags."""
  names = ("temperature", "top_k", "top_p")
  return {n: values[n].value for n in names if values[n].value is not None}


def _sampler(values, default):
  """Returns the sampler of the flags; by default the run's."""
  from t5x_lite import decoding

  given = _sampling(values)
  if given and default == decoding.GREEDY:
    default = decoding.Sample()
  for name in given:
    if name not in {field.name for field in dataclasses.fields(default)}:
      raise ValueError(
        f"--{name}={given[name]}: {default}, which the run samples by, has no "
        f"{name}; name another with --gin.run.Run.sampler=..."
      )
  return dataclasses.replace(default, **given) if given else default


def blanks(text) -> str:
  """Replaces ___ by sentinels: "a ___ b" -> "a <extra_id_0> b".

  A text that already has sentinels is unchanged.
  """
  from t5x_lite.data import sentinels

  if sentinels.has_sentinels(text):
    return text
  numbers = itertools.count()
  return re.sub(r"_{3,}", lambda _: f"<extra_id_{next(numbers)}>", text)


def check_source(values, has_texts, flag):
  """Checks that texts come either from flags or from a file.

  Raises:
    ValueError: both or neither are given, or a file without an output.
  """
  if has_texts == bool(values.input):
    raise ValueError(f"give either {flag} or --input and --output")
  if bool(values.input) != bool(values.output):
    raise ValueError("--input and --output go together")


def finish(job, restored, records, values, show):
  """Runs a job on records or on --input, and prints or writes the results."""
  import jax

  from t5x_lite.files import json_text
  from t5x_lite.inference import infer

  settings = {"batch_size": values.batch_size, "layout": restored.layout}
  if values.input:
    infer.run_file(
      job, restored.params, values.input, values.output, **settings
    )
    return
  results = infer.run(job, restored.params, records, **settings)
  if jax.process_index() == 0:
    for number, result in enumerate(results, start=1):
      what = f"text {number}"
      print(json_text.dumps(result, what=what) if values.json else show(result))


def _show(result) -> str:
  """Formats a result for the terminal."""
  given = result.get("inputs", result.get("text"))
  bold = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
  if "filled" in result:
    answer = mark_blanks(given, " ".join(result["filled"].split()), bold)
  else:
    answer = f"{given}{bold[0]} {result['prediction']}{bold[1]}"
  return (
    f"\n{given}\n  -> {answer}\n     (log p {result['log_likelihood']:.1f})"
  )


def mark_blanks(given, filled, mark) -> str:
  """Marks the text filled into blanks: "a <extra_id_0> c" -> "a [b] c".

  If the rest of the text has changed (the tokenizer lost something), nothing is
  marked.
  """
  from t5x_lite.data import sentinels

  texts = sentinels.SENTINEL.split(given)[::2]  # Text, number, text, ...
  kept = [" ".join(text.split()) for text in texts]
  match = re.fullmatch(r"\s*(.*?)\s*".join(map(re.escape, kept)), filled)
  if not match:
    return filled
  text, end = "", 0
  for blank in range(1, len(kept)):
    start, stop = match.span(blank)
    text += filled[end:start] + mark[0] + filled[start:stop] + mark[1]
    end = stop
  return text + filled[end:]
