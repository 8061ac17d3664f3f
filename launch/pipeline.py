"""Measures the data pipeline's throughput: `t5x_lite bench --pipeline`.

Ours is compared with a pipeline of the package t5. Both read python_docs with
the same vocabulary, corrupt spans as T5 does, and pack rows of the same lengths
with the same number of threads. Padding is not counted.
"""

import itertools
import time

_BATCH_SIZE = 16
_WARM_BATCHES = 8
TASK = "python_docs_span_corruption"


def measure(inputs, *, seconds=5.0) -> dict:
  """Measures our pipeline, and that of the package t5 if it is installed.

  Args:
    inputs: length of the inputs in tokens; it determines that of the targets.
    seconds: the duration of each measurement.

  Returns:
    "pipeline_tokens_per_s" and "t5_pipeline_tokens_per_s" (None without t5).
  """
  import seqio

  from t5x_lite import row_formats
  from t5x_lite.data import Data
  from t5x_lite.data.reader import Reader

  task = seqio.TaskRegistry.get(TASK)
  targets = task.recipe["objective"].plan(inputs).targets
  lengths = {"inputs": inputs, "targets": targets}
  spec = Data(task=TASK, lengths=lengths, batch_size=_BATCH_SIZE, pack=True)
  ours = Reader(spec, row_formats.ENCODER_DECODER).batches()
  theirs = _of_t5(task, lengths)
  return {
    "pipeline_tokens_per_s": _tokens_per_s(ours, seconds),
    "t5_pipeline_tokens_per_s": theirs and _tokens_per_s(theirs, seconds),
  }


def _tokens_per_s(batches, seconds) -> float:
  for _ in itertools.islice(batches, _WARM_BATCHES):
    pass
  tokens, begun = 0, time.perf_counter()
  while time.perf_counter() - begun < seconds:
    batch = next(batches)
    tokens += sum(
      int((batch[f"{side}_segment_ids"] > 0).sum())
      for side in ("encoder", "decoder")
    )
  return round(tokens / (time.perf_counter() - begun), 1)


def _of_t5(task, lengths):
  """Returns the batches of a pipeline of t5 and seqio, or None without t5."""
  import gin

  try:
    with gin.unlock_config():  # The package registers configurables.
      from t5.data import preprocessors
  except ImportError:
    return None
  import seqio

  from t5x_lite.data import reader

  features = task.output_features
  plain = seqio.Task(
    f"{TASK}_of_t5",
    source=task.source,
    output_features={
      name: seqio.Feature(feature.vocabulary, add_eos=True)
      for name, feature in features.items()
    },
    preprocessors=[
      lambda ds: ds.map(lambda x: {"targets": x["text"]}),
      seqio.preprocessors.tokenize,
      preprocessors.span_corruption,
      seqio.preprocessors.append_eos_after_trim,
    ],
  )
  ds = plain.get_dataset(lengths, "train", seed=0, num_epochs=None)
  rows = seqio.EncDecFeatureConverter(pack=True)(ds, lengths)
  batches = rows.batch(_BATCH_SIZE).prefetch(4)
  return batches.with_options(reader.options()).as_numpy_iterator()
