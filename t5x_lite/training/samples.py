"""Writes sample predictions for a few held-out examples."""

import itertools

import jax
import numpy as np
from etils import epath

from t5x_lite.data import sentinels
from t5x_lite.data.reader import Reader
from t5x_lite.devices.layout import Layout
from t5x_lite.files import disk, json_text
from t5x_lite.files.text_files import Record
from t5x_lite.inference import infer
from t5x_lite.inference.jobs import Generate
from t5x_lite.model import Model, Params
from t5x_lite.training.run import Run

_COUNT = 4
# Examples that are looked through for as many that a text can show.
_MOST = 256


class Samples:
  """Predicts the same first examples of a reader's data at every step.

  Of MLM and GLM they are those with a blank in the first of their documents,
  which is what a text shows.
  """

  def __init__(self, model: Model, run: Run, reader: Reader):
    """Stores what generates; reads nothing yet.

    Raises:
      ValueError: the run's sampler or constraints do not suit the task.
    """
    self._reader = reader
    self._job = Generate(
      model=model,
      codec=infer.codec(
        reader.task, model.row_format, reader.lengths, truncate=True
      ),
      sampler=run.sampler,
      constraints=run.constraints,
    )

  def write(self, params: Params, layout: Layout | None, path: str) -> None:
    """Writes a JSONL file of inputs, targets and predictions.

    Writes none if no text shows an example: one of sentence pairs, or of an
    encoder without masks.
    """
    ordered = self._reader.replace(shuffle=False, pack=False, num_epochs=1)
    examples = ordered.examples().as_numpy_iterator()
    texts = map(self._texts, itertools.islice(examples, _MOST))
    texts = list(itertools.islice(filter(self._is_shown, texts), _COUNT))
    if not texts:
      return
    results = infer.run(
      self._job, params, texts, batch_size=_COUNT, layout=layout
    )
    if jax.process_index() == 0:
      path = epath.Path(path)
      what = f"{path.parent.name}/{path.name}"
      lines = (
        json_text.dumps(r, what=what, ensure_ascii=False) + "\n"
        for r in results
      )
      path.parent.mkdir(parents=True, exist_ok=True)
      disk.write_text(path, "".join(lines))

  def _is_shown(self, texts) -> bool:
    """Returns whether the texts have what the job needs: blanks, if any."""
    if "token_types" in self._reader.task.features:
      return False
    try:
      self._job.encode(Record("", texts))
    except ValueError:
      return False
    return True

  def _texts(self, example) -> dict[str, str]:
    """Returns an example's inputs and targets as texts."""
    codec, targets = self._job.codec, example["targets"].tolist()
    if "inputs" in example:
      inputs = example["inputs"].tolist()
    else:
      half = min(len(targets) // 2, self._job.lengths["inputs"])
      inputs, targets = targets[:half], targets[half:]
    if "positions" in example:
      targets = _from_left_to_right(codec, **example)
    return {
      "inputs": codec.inputs.vocabulary.decode(inputs),
      "targets": codec.targets.vocabulary.decode(targets),
    }


def _from_left_to_right(codec, inputs, targets, positions) -> list[int]:
  """Returns what fills blanks (GLM), in the order in which it is generated."""
  vocabulary = codec.targets.vocabulary
  is_blank = np.isin(inputs, sentinels.sentinel_ids(vocabulary))
  ordered = targets[np.argsort(positions, kind="stable")]
  ends = (sentinels.eos_id(vocabulary),)
  return codec.blanks.answer(inputs, is_blank, ordered.tolist(), ends)[0]
