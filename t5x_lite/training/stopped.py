"""Records the step at which training stopped, so that it can be repeated.

    RUN/stopped-STEP/
      batch.npz   the global batch of the step, by the names of its arrays
      stop.json   the reason, the step's loss, and each row's id and text; null
                  stands for numbers that are not finite, or not known

The id of a row is a digest of its tokens: two rows with one id are the same
example. STEP is the first step whose update was skipped, or whose loss was a
spike, of those for which training stopped.
"""

import contextlib
import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.experimental import multihost_utils

from t5x_lite.checkpoints.manager import Checkpoints
from t5x_lite.data.resolved_task import ResolvedTask
from t5x_lite.devices.layout import Layout
from t5x_lite.files import disk, json_text
from t5x_lite.training.divergence import Diverged
from t5x_lite.training.examination import Findings, loss_bits

_RECORD, _BATCH = "stop.json", "batch.npz"
# Of a row's text.
_HEAD_TOKENS, _HEAD_CHARACTERS = 64, 200


@contextlib.contextmanager
def recording(
  checkpoints: Checkpoints,
  *,
  model_dir: str,
  task: ResolvedTask,
  layout: Layout,
  examine: Callable[..., Findings],
) -> Iterator[None]:
  """Records the step if training in the block diverges; in all processes.

  Args:
    checkpoints: the run's.
    model_dir: the run's directory.
    task: for its vocabulary.
    layout: of the run's batches.
    examine: as from `examination.examiner`.

  Raises:
    ValueError: in place of Diverged, and names the directory too.
  """
  try:
    yield
  except Diverged as error:
    number = error.step.number
    folder = _folder(model_dir, number)
    try:
      checkpoints.wait()
      _record(
        folder, error, checkpoints.latest_step or 0, task, layout, examine
      )
    except (
      Exception
    ) as failure:  # The reason to stop must be said all the same.
      reason = str(failure).partition("\n")[0]
      raise ValueError(f"{error}; {folder} not written: {reason}") from failure
    raise ValueError(
      f"{error}; {folder} has step {number}, its batch and the ids of its "
      f"rows: train --model_dir={model_dir} --replay={number} repeats it"
    ) from None


def _record(folder, error, start, task, layout, examine) -> None:
  step, batch = error.step, layout.shard_batch(error.step.batch)
  findings = None
  if error.params is not None:
    findings = examine(error.params, step.number - 1, batch)
  record = {
    "step": step.number,
    "reason": str(error),
    "restart_from_step": start,
    "loss": float(step.metrics.terms["loss"].mean()),
    "loss_bits": loss_bits(step.metrics),
    **{name: float(norm) for name, norm in step.metrics.norms.items()},
    "batch_digest": f"{int(step.metrics.batch_digest):08x}",
    "gradient_norms": findings and findings.gradient_norms,
    "first_not_finite": findings and findings.first_not_finite,
  }
  _write(folder, record, _whole(batch), task, findings)


def read(model_dir: str, step: int) -> tuple[dict[str, Any], dict]:
  """Reads what `recording` wrote: the record, and the arrays of the batch.

  Raises:
    ValueError: nothing is recorded of this step, or it is damaged.
  """
  folder = _folder(model_dir, step)
  if not (folder / _RECORD).exists():
    known = sorted(
      int(path.name.rpartition("-")[2])
      for path in epath.Path(model_dir).glob("stopped-*")
    )
    raise ValueError(
      f"--replay={step}: {model_dir} has no {folder.name}; training has "
      f"recorded {', '.join(map(str, known)) or 'no steps'}"
    )
  record = json_text.read(
    folder / _RECORD, "restart_from_step", "loss_bits", "rows"
  )
  arrays = np.load(io.BytesIO((folder / _BATCH).read_bytes()))
  return record, {name: arrays[name] for name in arrays.files}


def row_ids(batch: Mapping[str, np.ndarray]) -> list[str]:
  """Returns a digest of the tokens of each row."""
  columns = [np.ascontiguousarray(batch[name]) for name in sorted(batch)]
  return [
    hashlib.blake2b(b"".join(row), digest_size=8).hexdigest()
    for row in zip(*(map(np.ndarray.tobytes, c) for c in columns), strict=True)
  ]


def _folder(model_dir: str, step: int) -> epath.Path:
  return epath.Path(model_dir) / f"stopped-{step}"


def _whole(batch: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
  """Returns the rows of all processes."""
  if jax.process_count() == 1:
    return jax.device_get(dict(batch))
  return {
    name: np.asarray(multihost_utils.process_allgather(values, tiled=True))
    for name, values in batch.items()
  }


def _write(folder, record, batch, task, findings) -> None:
  if jax.process_index() != 0:
    return
  rows = [{"id": row_id} for row_id in row_ids(batch)]
  for number, row in enumerate(rows):
    row["loss"] = findings and findings.row_losses[number]
    # What a decoder reads is what it predicts, one place later.
    row["text"] = {
      name: _head(values[number], task)
      for name, values in batch.items()
      if name.endswith("_tokens") and name != "decoder_input_tokens"
    }
  folder.mkdir(parents=True, exist_ok=True)
  buffer = io.BytesIO()  # A file of an object store cannot be sought in.
  np.savez(buffer, **batch)
  with disk.partial(folder / _BATCH) as temporary:
    temporary.write_bytes(buffer.getvalue())
  text = json_text.dumps(record | {"rows": rows}, indent=2, ensure_ascii=False)
  disk.write_text(folder / _RECORD, text + "\n")


def _head(ids: np.ndarray, task: ResolvedTask) -> str:
  decoded = task.vocabulary.decode(ids[:_HEAD_TOKENS].tolist())
  return str(decoded)[:_HEAD_CHARACTERS]
