"""Runs generation and scoring jobs on records in memory or in JSONL files.

task = resolved_task.resolve("python_docs_span_corruption")
codec = infer.codec(task, model.row_format, {"inputs": 512, "targets": 114})
job = infer.Generate(model=model, codec=codec, sampler=Sample(top_p=0.9))
infer.run(job, params, [{"inputs": "To be or not <extra_id_0>"}])
infer.run_file(job, params, "questions.jsonl", "answers.jsonl")
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.experimental import multihost_utils

from t5x_lite import row_formats
from t5x_lite.data import rows
from t5x_lite.data.vocabulary_record import Task
from t5x_lite.devices.layout import Layout
from t5x_lite.files.text_files import Record
from t5x_lite.inference import batched, blanks, input_file, jsonl
from t5x_lite.inference.jobs import Codec, Generate, Score
from t5x_lite.inference.progress import Progress
from t5x_lite.model import Params
from t5x_lite.row_formats import RowFormat

__all__ = ["Codec", "Generate", "Score", "codec", "run", "run_file"]

# With continuous batching, so many batches are read at once: at the end of
# them rows become free, for which there is no next text.
_QUEUE = 16


def codec(
  task: Task,
  row_format: RowFormat,
  lengths: Mapping[str, int],
  *,
  truncate: bool = False,
  delimiter: str | None = None,
) -> Codec:
  """Returns the codec of a task or mixture: vocabularies, EOS and delimiter.

  Args:
    task: a task or mixture.
    row_format: the model's.
    lengths: {feature: tokens}.
    truncate: whether to truncate longer texts rather than refuse them.
    delimiter: the text between inputs and targets; None takes the task's
      `delimiter`, or a space.

  Raises:
    ValueError: the architecture does not take this task; or the delimiter is
      unused, or ambiguous in a mixture.
  """
  of = task.features
  row_format.check(set(row_formats.FEATURES) & of.keys())
  names = [name for name in ("inputs", "targets") if name in of]
  if missing := set(names) - lengths.keys():
    raise ValueError(
      f"lengths ({dict(lengths)}) lacks {', '.join(sorted(missing))} of "
      f"{task.name}"
    )
  targets = of["targets"]
  return Codec(
    row_format=row_format,
    # A language model's prompt is the beginning of a text: no EOS.
    inputs=of.get("inputs", dataclasses.replace(targets, add_eos=False)),
    targets=targets,
    lengths={
      name: lengths[name] for name in (*names, "decoder") if name in lengths
    },
    truncate=truncate,
    delimiter=_delimiter(task, delimiter),
    blanks=blanks.KINDS[row_format.blanks(of)],
  )


def _delimiter(task: Task, given: str | None) -> str:
  """Returns the text between inputs and the targets that continue them."""
  found = task.delimiters
  if given is None and len(found) > 1:
    raise ValueError(
      f"the tasks of {task.name} have {len(found)} different delimiters "
      f"({', '.join(map(repr, found))}): set delimiter to one of them"
    )
  if given is not None and not found:
    raise ValueError(
      f"delimiter ({given!r}) cannot be used: the inputs of {task.name} end "
      "with EOS, so targets are a separate text; leave it out"
    )
  return given if given is not None else min(found, default=" ")


def run(
  job: Generate | Score,
  params: Params,
  records: Iterable[Mapping[str, Any]],
  *,
  batch_size: int = 32,
  layout: Layout | None = None,
  row_ids: Iterable[int] | None = None,
  continuous: bool = False,
) -> list[dict[str, Any]]:
  """Runs a job on records in memory.

  Args:
    job: the job to run on each record.
    params: the model's parameters, sharded by `layout`.
    records: dicts of texts.
    batch_size: rows per batch, rounded up to a multiple of the data shards.
    layout: the devices; None means one device.
    row_ids: one per record, which makes its samples its own; None: its place.
    continuous: whether a text that has ended gives its place in the batch to
      the next; the results are the same.

  Returns:
    One dict per record, in order: its own fields and the job's.

  Raises:
    ValueError: a record does not suit the job.
  """
  records = [
    Record(f"text {i}", dict(fields)) for i, fields in enumerate(records, 1)
  ]
  for record in records:
    job.encode(record)
  batch_size = min(batch_size, max(len(records), 1))
  batches = _run(
    job,
    params,
    lambda: iter(records),
    itertools.count() if row_ids is None else row_ids,
    batch_size=batch_size,
    layout=layout,
    continuous=continuous,
  )
  return list(itertools.chain.from_iterable(batches))


def run_file(
  job: Generate | Score,
  params: Params,
  path_in: str,
  path_out: str,
  *,
  batch_size: int = 32,
  layout: Layout | None = None,
  num_samples: int = 1,
  skip_bad: bool = False,
  continuous: bool = False,
) -> int:
  """Runs a job on each line of a file and writes JSONL in the same order.

  All lines are checked before the first is computed. Results are appended a
  batch at a time, as complete lines. After an interruption, the same call
  continues after the last line, with the same results as without one.

  Args:
    job, params, batch_size, layout, continuous: as in `run`.
    path_in: JSON Lines, or plain text with one text per line; text_files.py
      detects which.
    path_out: a local `.jsonl` file; see `jsonl.Output`.
    num_samples: results per line, one after the other.
    skip_bad: whether to skip lines that cannot be read or do not suit the job;
      they are listed in PATH_OUT.bad.jsonl, without the ending of PATH_OUT.

  Returns:
    The number of lines in the output.

  Raises:
    ValueError: one line that names the file, its line and the problem.
  """
  source = input_file.Input(
    path_in, job, num_samples=num_samples, skip_bad=skip_bad
  )
  num_records = source.num_records
  identity = {
    "input": source.sha256,
    # Left out by default, so that jobs begun by earlier versions go on.
    **({"num_samples": num_samples} if num_samples > 1 else {}),
    **_settings(job),
    "parameters": fingerprint(params),
  }
  with contextlib.ExitStack() as stack:
    output, num_done = None, 0
    if jax.process_index() == 0:
      output = stack.enter_context(jsonl.Output(path_out, identity))
      num_done = output.num_lines
      if source.bad:
        bad = f"{str(path_out).removesuffix('.jsonl')}.bad.jsonl"
        source.write_bad(bad)
        logging.warning("skipped %d bad lines: see %s", len(source.bad), bad)
    if jax.process_count() > 1:
      num_done = int(multihost_utils.broadcast_one_to_all(np.int32(num_done)))
    if num_done > num_records:
      raise ValueError(
        f"{path_out} has {num_done} lines, more than the {num_records} texts "
        f"in {path_in}: remove it or choose another output"
      )
    progress = stack.enter_context(Progress(num_records, num_done))
    for results in _run(
      job,
      params,
      lambda: source.records(num_done),
      itertools.count(num_done),
      batch_size=batch_size,
      layout=layout,
      continuous=continuous,
    ):
      if output is not None:
        output.append(results)
      progress.update(len(results))
  return num_records


def _run(job, params, read, row_ids, *, batch_size, layout, continuous):
  """Yields the results of each batch of the records that `read` reads."""
  compute = functools.partial(job.compute, params)
  if continuous:
    _check_one_copy(layout)
    compute = functools.partial(
      job.compute_continuously, params, rows=batch_size
    )
    batch_size *= _QUEUE
  batch_size = batched.round_up(batch_size, layout)
  records = read()
  for ids, found in batched.compute(
    compute,
    _batches(job, read, row_ids, batch_size),
    batch_size=batch_size,
    layout=layout,
  ):
    yield [
      job.result(record.fields, {name: x[i] for name, x in found.items()})
      for i, record in enumerate(itertools.islice(records, len(ids)))
    ]


def _check_one_copy(layout):
  """Refuses to divide rows that come and go among devices."""
  copies = batched.round_up(1, layout)
  if copies > 1 or jax.process_count() > 1:
    raise ValueError(
      f"continuous=True is for one copy of the model, and there are {copies}, "
      f"in {jax.process_count()} processes: leave it out, or set copies=1"
    )


def _batches(job, read, row_ids, batch_size):
  """Converts records to the model's features; yields (row ids, batch)."""
  records, row_ids = iter(read()), iter(row_ids)
  while some := list(itertools.islice(records, batch_size)):
    ids = np.array(list(itertools.islice(row_ids, len(some))), np.int32)
    yield ids, batch(job, [job.encode(record) for record in some])


def batch(
  job: Generate | Score, examples: Sequence[Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
  """Returns the rows of examples that a job encoded, int32 [rows, length]."""
  starts = rows.starts(job.codec.targets.vocabulary)
  return rows.lay_out(job.codec.row_format, examples, job.lengths, **starts)


def fingerprint(params: Params) -> str:
  """Returns a short fingerprint of the parameters, whatever their sharding.

  For each leaf, it sums the bits of all words, each multiplied by an odd number
  that depends on its place. An integer sum is exact in any order, so sharding
  does not change it.
  """

  @jax.jit
  def sums(leaves):
    def weighted_bits(x):
      unsigned = jnp.dtype(f"uint{8 * x.dtype.itemsize}")
      words = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32)
      place = jnp.zeros((), jnp.uint32)
      for dim, size in enumerate(x.shape):
        index = jax.lax.broadcasted_iota(jnp.uint32, x.shape, dim)
        place = place * np.uint32(size) + index
      odd = place * np.uint32(2654435761) * 2 + 1  # Knuth's hash of a place
      return jnp.sum(words * odd, dtype=jnp.uint32)

    return [weighted_bits(x) for x in leaves]

  leaves = jax.tree_util.tree_leaves_with_path(params)
  totals = jax.device_get(sums([x for _, x in leaves]))
  contents = [
    (jax.tree_util.keystr(path), x.shape, str(x.dtype), int(total))
    for (path, x), total in zip(leaves, totals, strict=True)
  ]
  return hashlib.sha256(repr(contents).encode()).hexdigest()[:16]


def _settings(job):
  """Returns what a job's results depend on, except parameters and input."""
  settings = {
    field.name: getattr(job, field.name)
    for field in dataclasses.fields(job)
    if field.name not in ("model", "codec", "draft_params")
  }
  # Left out by default, so that jobs begun by earlier versions go on.
  for name in ("stop", "caching"):
    if not settings.get(name):
      settings.pop(name, None)
  if getattr(job, "draft_params", None) is not None:
    settings["draft_parameters"] = fingerprint(job.draft_params)
  return {
    "job": type(job).__name__,
    "architecture": job.codec.row_format.name,
    "model": hashlib.sha256(repr(job.model).encode()).hexdigest()[:16],
    **{
      k: v if isinstance(v, int | float | None) else repr(v)
      for k, v in settings.items()
    },
  }
