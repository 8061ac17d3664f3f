"""Writes sample predictions for a few held-out examples."""

import itertools

import jax
from etils import epath

from t5x_lite.data.reader import Reader
from t5x_lite.devices.layout import Layout
from t5x_lite.files import disk, json_text
from t5x_lite.inference import infer
from t5x_lite.inference.jobs import Generate
from t5x_lite.model import Model, Params
from t5x_lite.training.run import Run

_COUNT = 4


def write(
  model: Model,
  params: Params,
  run: Run,
  reader: Reader,
  layout: Layout | None,
  path: str,
) -> None:
  """Writes a JSONL file of inputs, targets and predictions.

  At every step it uses the same first examples of the reader's data. Writes
  nothing for MLM and GLM, whose examples may have no blank that a text shows.
  """
  if model.row_format.blanks(reader.task.features) != "sentinels":
    return
  codec = infer.codec(
    reader.task, model.row_format, reader.spec.lengths, truncate=True
  )
  job = Generate(
    model=model,
    codec=codec,
    sampler=run.sampler,
    constraints=run.constraints,
  )
  ordered = reader.replace(shuffle=False, pack=False, num_epochs=1)
  examples = ordered.examples().as_numpy_iterator()
  texts = [_texts(x, codec, job) for x in itertools.islice(examples, _COUNT)]
  results = infer.run(job, params, texts, batch_size=_COUNT, layout=layout)
  if jax.process_index() == 0:
    path = epath.Path(path)
    what = f"{path.parent.name}/{path.name}"
    lines = (
      json_text.dumps(r, what=what, ensure_ascii=False) + "\n" for r in results
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    disk.write_text(path, "".join(lines))


def _texts(example, codec, job):
  """Returns an example's inputs and targets as texts."""
  targets = example["targets"].tolist()
  if "inputs" in example:
    inputs = example["inputs"].tolist()
  else:
    half = min(len(targets) // 2, job.lengths["inputs"])
    inputs, targets = targets[:half], targets[half:]
  return {
    "inputs": codec.inputs.vocabulary.decode(inputs),
    "targets": codec.targets.vocabulary.decode(targets),
  }
