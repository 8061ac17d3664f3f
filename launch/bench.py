"""Measures training speed on synthetic tokens: `t5x_lite bench`."""

import importlib.util

from absl import flags

from launch import decode_table, describe, options

USAGE = "--gin_file=FILE [flags]"
DETAILS = """
Times complete training steps of a model on this machine, on synthetic tokens.
Prints tokens per second, step time, model FLOP/s, the percentage of the matmul
peak (measured in the same run), and peak memory. The gin file of a run sets the
batch size, the lengths and the optimizer; for the gin file of a model, set them
by flags. With --against=transformers, the same architecture trains in PyTorch
too, in a process of its own, by AdamW in float32; steps alternate. With
--decode, it is greedy generation that is timed, of --lengths=inputs=PROMPT,
targets=NEW (64 and 64) in batches of 1, 8 and 64, or of --batch_size. Several
devices are divided among 1, 2, ... copies of the model; the number that gives
the most tokens per second is named, for --copies of `infer`.
"""
EXAMPLE = """
t5x_lite bench --gin_file=gin/models/t5_1_1/small.gin --batch_size=8 \\
  --lengths=inputs=512,targets=114 --json
t5x_lite bench --gin_file=gin/models/llama/bench.gin --optimizer=adamw
t5x_lite bench --gin_file=gin/models/t5_1_1/small.gin --optimizer=adamw \\
  --against=transformers
t5x_lite bench --decode --gin_file=gin/models/llama/bench.gin
"""


def define(values):
  """Defines the command's flags."""
  options.gin_flags(values)
  describe.shape_flags(values)
  flags.DEFINE_integer(
    "steps", 5, "Steps to time, after one warmup step.", lower_bound=1,
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "pipeline", False,
    "Also measure the throughput of the data pipeline: span corruption over "
    "python_docs, compared with the package t5 if it is installed.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_enum(
    "against", None, ["transformers"],
    "Library whose training steps are timed too.", flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "decode", False, "Time generation rather than training.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool("json", False, "Print one JSON object.", flag_values=values)
  options.process_flags(values)


def main(values, arguments):
  """Runs the benchmark and prints the result."""
  options.no_arguments("bench", arguments)
  if values.against:
    _check_installed(values.against)
  given = describe.settings(values)
  from launch import session

  session.start_processes(values)
  import jax

  from t5x_lite.files import json_text
  from t5x_lite.training import bench

  if values.decode:
    result = _decode(values, given["model"])
    if jax.process_index() == 0:
      show = decode_table.text
      print(
        json_text.dumps(result, what="bench") if values.json else show(result)
      )
    return
  model, optimizer = given.pop("model"), given.pop("optimizer")
  if values.against:
    from t5x_lite.interop import huggingface

    _, given["against"] = huggingface.described(model.transformer)
  result = bench.bench(model, optimizer, steps=values.steps, **given)
  if values.pipeline:
    result |= _pipeline(given["lengths"])
  if jax.process_index() == 0:
    if values.json:
      print(json_text.dumps(result, what="bench"))
    else:
      print(_table(result))


def _decode(values, model) -> dict:
  """Times generation."""
  from t5x_lite.training import decode_bench

  lengths = {"inputs": 64, "targets": 64} | options.parse_lengths(
    values.lengths
  )
  against = None
  if values.against:
    from t5x_lite.interop import huggingface

    _, against = huggingface.described(model.transformer)
  return decode_bench.bench(
    model,
    batch_sizes=[values.batch_size] if values.batch_size else [1, 8, 64],
    prompt_tokens=lengths["inputs"],
    new_tokens=lengths["targets"],
    repeats=values.steps,
    against=against,
  )


def _check_installed(peer):
  for package in (peer, "torch"):
    if importlib.util.find_spec(package) is None:
      raise ValueError(
        f"--against={peer} needs {package}, which is not installed: "
        'pip install "t5x_lite[hf]"'
      )


def _pipeline(lengths):
  if not lengths.get("inputs"):
    raise ValueError(
      f"--pipeline needs a length of inputs, but lengths are {dict(lengths)}"
    )
  from launch import environment, pipeline

  environment.load_tasks()
  return pipeline.measure(lengths["inputs"])


def _table(result) -> str:
  lengths = ", ".join(f"{k} {v}" for k, v in result["lengths"].items())
  steps = f"{result['step_ms_median']:,} ms, of {len(result['step_ms'])} steps"
  rows = {
    "model": f"{result['architecture']}, {result['parameters']:,} parameters, "
    f"{result['dtype']}, attention kernel {result['kernel']}",
    "batch": f"{result['batch_size']} rows, {lengths}",
    "device": result["device"],
    "tokens per second": f"{result['tokens_per_s']:,}",
    "step, median": steps,
    "model FLOP/s": f"{describe.quantity(result['flops_per_s'])}, "
    f"{result['pct_of_peak']} % of this device's matmul peak "
    f"({describe.quantity(result['peak_flops_per_s'])})",
    "peak memory": f"{result['rss_mb']:,} MB of the process"
    + (
      f", {result['device_mb']:,} MB on the device"
      if result["device_mb"] is not None
      else ""
    ),
    "compilation": f"{result['compile_s']} s",
  }
  if "pipeline_tokens_per_s" in result:
    ours, theirs = (
      result[f"{name}_tokens_per_s"] for name in ("pipeline", "t5_pipeline")
    )
    rows["pipeline"] = (
      f"{ours:,} tokens per second, {ours / result['tokens_per_s']:.1f} times "
      "the model's speed"
    )
    rows["t5's pipeline"] = (
      f"{theirs:,} tokens per second" if theirs else "t5 is not installed"
    )
  if "against" in result:
    theirs = result["against"]
    rows |= {
      "transformers": f"{theirs['tokens_per_s']:,} tokens per second, "
      f"{theirs['step_ms_median']:,} ms, {theirs['parameters']:,} parameters, "
      f"attention {theirs['attention']} ({theirs['versions']})",
      "ours / theirs": f"{theirs['ratio']:.2f} tokens per second; CPU time of "
      f"all threads {result['cpu_ms_median']:,} and "
      f"{theirs['cpu_ms_median']:,} ms",
    }
  width = max(map(len, rows))
  return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())
