"""Generates text with a run's model: `t5x_lite infer`."""

import pathlib
import re
import sys
from collections.abc import Iterator

from absl import flags

from launch import flag_checks, options

USAGE = "--model_dir=DIR --text=TEXT | --stream | --input=FILE"
DETAILS = """
--model_dir is a run or a Hugging Face directory as it is. A model of span
corruption fills in blanks, written ___ or <extra_id_0>, <extra_id_1>, ..., and
so do GLM and an encoder, of which each blank is one token; a language model
continues the text. --stream prints each token as it comes, and
answers each line of the standard input at once. With --chat, a text is a
message that is put into the tokenizer's chat template, and the lines of the
standard input are one conversation.

--input is a file of JSON Lines, with "inputs" or "text" in each object, or of
one text per line; it may be compressed. --output is JSON Lines in the same
order. It keeps all other fields; NaN is written as null. The same command
resumes an interrupted job. With --skip_bad, lines that cannot be read or are
too long go to OUTPUT.bad.jsonl, with their numbers and what is wrong.

Decoding is greedy unless flags, the run (run.Run.sampler) or the model's
generation_config.json set a sampler; --top_k=1 is greedy. --regex and
--json_schema (docs/decoding.md) need `pip install "t5x_lite[patterns]"`.
"""
EXAMPLE = """
t5x_lite infer --model_dir=runs/quickstart --text="A list is ___ of items."
t5x_lite infer --model_dir=llama --chat --stream --stop="User:"
t5x_lite infer --model_dir=llama --text="Born in" --regex=" (19|20)[0-9]{2}"
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
  flags.DEFINE_float(
    "min_p", None, "Sample from tokens that are at least this many times as "
    "probable as the most probable.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "num_beams", None, "Search with this many beams.", lower_bound=1,
    upper_bound=1000, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "do_sample", None, "Sample; with --num_beams, draw the beams.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "no_repeat_ngram_size", None, "No sequence of this many tokens comes "
    "twice.", lower_bound=0, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_multi_string(
    "bad_words", None, "Words that no text has; may be given several times.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_multi_string(
    "force_words", None, "Words that each text has, with --num_beams; may be "
    "given several times.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "regex", None, "A regular expression that each text matches.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "json_schema", None, "File of a JSON schema by which each text is valid.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "max_new_tokens", None,
    "Maximum number of new tokens; by default that of run.Run.constraints, or "
    "the length of the targets.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "num_samples", 1, "Texts that are written for each, sampled one by one, or "
    "the best of the beams.", lower_bound=1,
    upper_bound=10_000, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer("seed", 0, "Seed of sampling.", flag_values=values)
  flags.DEFINE_multi_string(
    "stop", [], "A string before which texts end; may be given several times.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "stream", False, "Print tokens as they come; without --text, answer the "
    "lines of the standard input.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_enum(
    "cache_dtype", None, ["float32", "bfloat16", "int8"],
    "Type of the kept keys and values; by default the model's.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "prefill_chunk_size", None, "Read so many tokens of the prompts at once.",
    lower_bound=1, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "continuous", False, "Give the place of a text that has ended to the next: "
    "the same texts, sooner if their lengths differ much.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "chat", False, "Put texts into the tokenizer's chat template.",
    flag_values=values,
  )  # fmt: skip
  options.gin_flags(values, on_top=True)
  options.process_flags(values)


def run_flags(values):
  """Defines the flags that `infer` and `score` share."""
  options.model_dir_flag(values, "Directory of a run, or of Hugging Face's.")
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
  flags.DEFINE_bool(
    "skip_bad", False, "Leave out bad lines of --input, and list them in "
    "OUTPUT.bad.jsonl.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_list(
    "ignore", [], "Options of a Hugging Face directory that are not read, as "
    "for convert.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "batch_size", 32, "Texts per batch.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer(
    "copies", None, "Copies of the model among which the devices are divided; "
    "by default as in the run, and one device for a Hugging Face directory.",
    lower_bound=1, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "json", False, "Print one JSON object per line.", flag_values=values
  )


def main(values, arguments):
  """Generates predictions for the texts of the flags, or of a file."""
  options.no_arguments("infer", arguments)
  options.require(values, "model_dir")
  if values.stream:
    _check_stream(values)
  else:
    check_source(values, bool(values.text), "--text")
  if values.chat and values.input:
    raise ValueError("--chat is for --text and --stream: leave out --input")
  from launch import environment, loading

  with environment.importing():
    from t5x_lite import decoding
    from t5x_lite.files import json_text
    from t5x_lite.inference import infer, strategies

  flag_checks.fit(
    values, decoding.Sample, "temperature", "top_k", "top_p", "min_p"
  )
  flag_checks.fit(values, infer.Generate, "max_new_tokens", "seed")
  flag_checks.output(values, "output")
  model = loading.of_flags(values)
  names = [name for name in strategies.ARGUMENTS if name in values]
  settings = {name: values[name].value for name in names}
  if values.json_schema:
    path = pathlib.Path(values.json_schema).expanduser()
    settings["json_schema"] = json_text.read(path)
  settings |= {
    "max_new_tokens": values.max_new_tokens,
    "stop_strings": values.stop,
    "seed": values.seed,
    "truncate": values.truncate,
    "num_return_sequences": values.num_samples,
  }
  if values.chat and model.chat_template is None:
    raise ValueError(
      f"--chat: {values.model_dir} has no chat template (chat_template in "
      "tokenizer_config.json, or chat_template.jinja): leave --chat out"
    )
  if values.stream:
    _stream(model, values, settings)
    return
  job = model.generation(**settings)
  strategies.check_samples(job.sampler, num_samples=values.num_samples)
  is_beam = isinstance(job.sampler, decoding.Beam)
  texts = [{"text": _prompt(model, text, values.chat)} for text in values.text]
  copies = 1 if is_beam else values.num_samples
  finish(
    job, model, texts, values, _show, num_samples=copies,
    continuous=values.continuous,
  )  # fmt: skip


def _prompt(model, text, is_chat) -> str:
  if is_chat:
    return model.chat_prompt([{"role": "user", "content": text}])
  return model.codec().blanks.mark(text)


def _check_stream(values):
  """Refuses flags that have no effect with --stream."""
  others = ("input", "output", "json", "skip_bad", "continuous")
  given = [name for name in others if values[name].value]
  if values.num_samples > 1:
    given.append("num_samples")
  if given:
    raise ValueError(
      f"--{given[0]} does not go with --stream, which prints one text after "
      "the other: leave one of them out"
    )


def _stream(model, values, settings):
  """Answers texts of the flags, or lines of the standard input, at once."""
  if values.num_processes not in (None, 1):
    raise ValueError("--stream is for one process: leave out --num_processes")
  history = []
  for text in values.text or _lines(sys.stdin):
    if values.chat:
      history = [] if values.text else history
      history.append({"role": "user", "content": text})
      prompt = model.chat_prompt(history)
    else:
      prompt = model.codec().blanks.mark(text)
    answer = ""
    for piece in model.stream(prompt, **settings):
      print(piece, end="", flush=True)
      answer += piece
    print(flush=True)
    history.append({"role": "assistant", "content": answer})


def _lines(file) -> Iterator[str]:
  """Yields lines that are not blank, each as soon as it is there."""
  while line := file.readline():
    if line.strip():
      yield line.rstrip("\r\n")


def check_source(values, has_texts, flag):
  """Checks that texts come either from flags or from a file.

  Raises:
    ValueError: both or neither are given, or a file without an output.
  """
  if has_texts == bool(values.input):
    raise ValueError(f"give either {flag} or --input and --output")
  if bool(values.input) != bool(values.output):
    raise ValueError("--input and --output go together")


def finish(
  job, model, records, values, show, *, num_samples=1, continuous=False
):
  """Runs a job on records or on --input, and prints or writes the results."""
  import jax

  from t5x_lite.files import json_text
  from t5x_lite.inference import infer

  settings = {
    "batch_size": values.batch_size,
    "layout": model.layout,
    "continuous": continuous,
  }
  if values.input:
    infer.run_file(
      job,
      model.params,
      values.input,
      values.output,
      num_samples=num_samples,
      skip_bad=values.skip_bad,
      **settings,
    )
    return
  if values.skip_bad:
    raise ValueError("--skip_bad is for --input: leave it out")
  records = [record for record in records for _ in range(num_samples)]
  results = infer.run(job, model.params, records, **settings)
  if jax.process_index() == 0:
    for number, result in enumerate(results, start=1):
      what = f"text {number}"
      print(json_text.dumps(result, what=what) if values.json else show(result))


def _show(result) -> str:
  """Formats a result for the terminal, one paragraph per text."""
  if "sequences" in result:
    return "\n".join(
      _show(one | {"text": result["text"]}) for one in result["sequences"]
    )
  given = result.get("inputs", result.get("text"))
  bold = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
  # A prediction that names no blank, by --regex say, fills none.
  if result.get("filled", given) != given:
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
