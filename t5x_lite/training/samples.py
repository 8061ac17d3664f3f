"""Writes sample predictions for a few held-out examples."""

import dataclasses
import itertools

import jax
from etils import epath

from t5x_lite.data import batches
from t5x_lite.devices.layout import Layout
from t5x_lite.files import json_text
from t5x_lite.inference import infer
from t5x_lite.inference.jobs import Generate
from t5x_lite.model import Model, Params
from t5x_lite.training.run import Run

_COUNT = 4


def write(
  model: Model,
  params: Params,
  run: Run,
  layout: Layout | None,
  model_dir: str,
  number: int,
) -> None:
  """Writes `model_dir`/samples/STEP.jsonl: inputs, targets and predictions.

  At every step it uses the same first examples of the first evaluation task, or
  of the training task if there is none. Writes nothing for an encoder-only
  model, which cannot generate, or for GLM, whose blanks a prompt does not have.
  """
  spec = run.eval[0] if run.eval else run.train
  has_blanks = "positions" in batches.get_task(spec.task).output_features
  if not model.row_format.generates or has_blanks:
    return
  codec = infer.codec(spec.task, model.row_format, spec.lengths, truncate=True)
  job = Generate(
    model=model,
    codec=codec,
    sampler=run.sampler,
    constraints=run.constraints,
  )
  spec = dataclasses.replace(spec, shuffle=False, pack=False, num_epochs=1)
  examples = itertools.islice(
    batches.examples(spec, model.row_format).as_numpy_iterator(), _COUNT
  )
  texts = [_texts(example, codec, job) for example in examples]
  results = infer.run(job, params, texts, batch_size=_COUNT, layout=layout)
  if jax.process_index() == 0:
    lines = (
      json_text.dumps(r, what=f"samples/{number}.jsonl", ensure_ascii=False)
      + "\n"
      for r in results
    )
    path = epath.Path(model_dir) / "samples" / f"{number}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(lines))


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
