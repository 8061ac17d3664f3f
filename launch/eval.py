"""Evaluates a run on held-out data: `t5x_lite eval`."""

import dataclasses
import json

from absl import flags
from etils import epath

from launch import options, rundir
from t5x_lite.files import json_text, lock

USAGE = "--model_dir=RUN [flags]"
DETAILS = """
Evaluates the run on each task of run.Run.eval, or of --task: loss in nats per
target token, accuracy, the unigram entropy of the same targets, and the task's
own metrics. Adds the results to RUN/eval-STEP.json, each with the data that it
is of; the same data again replaces its result.
"""
EXAMPLE = """
t5x_lite eval --model_dir=runs/quickstart
t5x_lite eval --model_dir=runs/quickstart --num_batches=20 \\
  --task=python_source_span_corruption
t5x_lite eval --model_dir=runs/quickstart --gin_file=gin/runs/eval_offline.gin
"""

_COUNTS = (
  "tokens", "num_examples", "num_batches", "num_epochs", "metric_examples"
)  # fmt: skip


def define(values):
  """Defines the command's flags."""
  options.model_dir_flag(values, "Directory of the run to evaluate.")
  flags.DEFINE_integer(
    "step", None, "Checkpoint to use; by default the newest.", lower_bound=0,
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_multi_string(
    "task", [],
    "A task or mixture instead of the run's; may be given several times.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "split", None, "Split to evaluate on; by default the run's, or validation.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "num_batches", None, "Maximum number of batches.", lower_bound=1,
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool(
    "metric_fns", True,
    "Whether to generate predictions for the tasks' own metrics.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_bool("json", False, "Print JSON.", flag_values=values)
  options.gin_flags(values, on_top=True)
  options.process_flags(values)


def main(values, arguments):
  """Evaluates the run, prints a table, and writes the metrics."""
  options.no_arguments("eval", arguments)
  options.require(values, "model_dir")
  from launch import session

  restored = session.restore(values)
  import jax

  from t5x_lite import decoding
  from t5x_lite.data import vocabulary_record
  from t5x_lite.data.reader import Reader
  from t5x_lite.evaluation import evaluate, held_out

  row_format = restored.model.row_format
  readers = [Reader(spec, row_format) for spec in _specs(restored.run, values)]
  for reader in readers:
    vocabulary_record.check(reader.task, values.model_dir)
  settings = {
    "metric_fns": values.metric_fns,
    "sampler": str(decoding.GREEDY),
    "constraints": str(restored.run.constraints),
    "commit": rundir.commit(),
  }
  path = epath.Path(values.model_dir) / f"eval-{restored.step}.json"
  _earlier(path)  # A damaged file is refused before minutes of evaluation.
  results, metrics = [], {}
  for data in held_out.held_out(readers, layout=restored.layout):
    found = evaluate.evaluate(
      restored.model,
      restored.params,
      [data],
      layout=restored.layout,
      sampler=decoding.GREEDY,
      constraints=restored.run.constraints,
      metric_fns=values.metric_fns,
    )
    metrics |= found
    of = dataclasses.asdict(data.reader.spec) | settings
    results.append({"of": of, "metrics": found})
  if jax.process_index() == 0:
    _add(path, restored.step, results)
    print(json_text.dumps(metrics) if values.json else _table(metrics, path))


def _add(path, step, results):
  """Adds results to a step's file, in place of earlier ones of the same."""
  from t5x_lite.evaluation import evaluate

  measured = [json.loads(json_text.dumps(result["of"])) for result in results]
  # Another evaluation of the step may end at the same time.
  with lock.exclusive(path.with_name(".eval.lock"), wait=True):
    others = [r for r in _earlier(path) if r["of"] not in measured]
    evaluate.write({"step": step, "results": others + results}, path)


def _earlier(path):
  """Returns the results of other evaluations of the same step."""
  if not path.exists():
    return []
  remedy = "move it away: it may be of another version of t5x_lite"
  return json_text.read(path, "results", remedy=remedy)["results"]


def _specs(run, values):
  """Returns the run's evaluation data, with the changes of the flags."""
  specs = run.eval
  changes = {"shuffle": False, "num_epochs": 1, "next_stage": None}
  if not specs:  # Its training data, of which num_batches would end a stage.
    specs = [run.train]
    changes |= {"split": "validation", "num_batches": None}
  if values.task:
    specs = [
      dataclasses.replace(specs[0], task=task, next_stage=None)
      for task in values.task
    ]
  if values.split:
    changes["split"] = values.split
  if values.num_batches:
    changes["num_batches"] = values.num_batches
  return [
    dataclasses.replace(stage, **changes)
    for spec in specs
    for stage in spec.stages
  ]


def _table(metrics, path) -> str:
  tasks = {}
  for name, value in metrics.items():
    task, _, metric = name.rpartition("/")
    tasks.setdefault(task, {})[metric] = value
  lines = []
  for task, values in tasks.items():
    lines.append(task)
    width = max(map(len, values))
    for metric, value in values.items():
      shown = f"{value:,.0f}" if metric in _COUNTS else f"{value:.4g}"
      lines.append(f"  {metric:<{width}}  {shown}")
    if "loss" in values and "unigram_entropy" in values:
      gain = values["unigram_entropy"] - values["loss"]
      side = "below" if gain >= 0 else "above"
      lines.append(
        f"  the loss is {abs(gain):.2f} nats per token {side} the unigram "
        "entropy"
      )
  return "\n".join([*lines, f"written to {path}"])
