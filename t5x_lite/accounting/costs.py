"""Parameters, FLOPs and bytes of a model, before it is built.

Nothing here computes: parameters are counted from their shapes, FLOPs and what
the backward keeps are read off traces of the program.

FLOPs are those of matmuls, 2 per multiply-add, as the program computes them:

- A weight is used once per token that it sees. An encoder's weights see the
  encoder's tokens, a decoder's the decoder's; the keys and values of
  cross-attention are made from the encoder's. Looking up an embedding is free.
- Attention scores are full: T x S products for the logits and T x S for the
  mix, whether a rule hides half of them or not (a kernel that skips what a
  causal rule hides computes half). So does PaLM count, arXiv:2204.02311,
  appendix B: 6 N + 12 L (heads) H T per token for a decoder of N parameters.
- An expert costs what it has room for in training (moe.py), filled or not.
- Training costs three times the forward pass: the backward has two matmuls
  for each one (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
- "training" are model FLOPs, without recomputation: what rates and budgets are
  counted in. "hardware" are those of the traced gradient: also what remat
  computes again, the scores that the cudnn kernel computes again (Dao 2023,
  arXiv:2307.08691, section 2.3), and the padding of the last piece of a loss in
  chunks.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
from absl import logging

from t5x_lite.accounting import activation_memory, model_structure, traces
from t5x_lite.devices import memory
from t5x_lite.losses.cross_entropy import CrossEntropy
from t5x_lite.nn import attend

Size = TypeVar("Size")


def describe(
  model,
  *,
  batch_size: int,
  lengths: Mapping[str, int],
  optimizer=None,
  microbatches: int = 1,
  platform: str | None = None,
) -> dict:
  """Accounts for a model and one training step of it.

  Args:
    model: a model.Model with a known vocabulary size.
    batch_size: rows of a global batch.
    lengths: task feature -> tokens, as row_formats.py reads them.
    optimizer: one of optimizers.py; None keeps no state.
    microbatches: pieces that a batch is cut into.
    platform: where it is to run; "cpu" has peculiarities (activations.py).

  Returns:
    A dict that JSON can hold:
    - "architecture", "batch_size", "row_lengths", and "tokens_per_step", of
      encoder and decoder together;
    - "parameters": "total" and "by_component";
    - "flops_per_step", "flops_per_token": of training, head included;
    - "flops": of one step, see `flops`;
    - "bytes", over all devices: "parameters", "gradients", "optimizer",
      "activations" (of one microbatch); "total", the peak of a training step,
      less than their sum as gradients take the place that activations leave;
      and, for another occasion, "kv_cache": to generate a batch of such rows.
    FLOPs and activations are read off traced programs. Where the installed JAX
    writes those in an unknown way, they are NaN, and so is what adds them up;
    a warning says so.

  Raises:
    ValueError: for a length that is missing, or microbatches that do not
      divide the batch.
  """
  if batch_size % microbatches:
    raise ValueError(
      f"batch_size ({batch_size}) must be divisible by microbatches "
      f"({microbatches})"
    )
  rows = model.row_format.row_lengths(lengths)
  twin = model_structure.traceable(model)
  params = twin.abstract()
  step = _known(
    "FLOPs",
    lambda: _flops(model, batch_size, rows, microbatches),
    dict.fromkeys(_FLOPS, math.nan) | {"by_component": {}},
  )
  param_bytes, state_bytes = _nbytes(params), 0
  if optimizer is not None:
    transform = optimizer.build(twin.logical_axes())
    state_bytes = _nbytes(jax.eval_shape(transform.init, params))
  parts = {
    "parameters": param_bytes,
    # Microbatches add up their gradients beside those of the newest one.
    "gradients": param_bytes * (1 if microbatches == 1 else 2),
    "optimizer": state_bytes,
    "activations": _known(
      "bytes of activations",
      lambda: activation_memory.predict(
        model, params, batch_size // microbatches, rows, platform
      ),
      math.nan,
    ),
  }
  tokens = batch_size * sum(rows.values())
  return {
    "architecture": model.row_format.name,
    "batch_size": batch_size,
    "row_lengths": rows,
    "tokens_per_step": tokens,
    "parameters": parameters(model),
    "flops_per_token": step["training"] / tokens,
    "flops_per_step": step["training"],
    "flops": step,
    "bytes": {
      **parts,
      "total": memory.peak(parts),
      "kv_cache": _cache_bytes(model, batch_size, rows),
    },
  }


def _known(what: str, read: Callable[[], Size], unknown: Size) -> Size:
  """Returns what is read off a program, or says that it cannot be read."""
  try:
    return read()
  except traces.Unreadable as error:
    logging.warning(
      "%s are not known: the programs of JAX %s cannot be read (%s)",
      what, jax.__version__, error,
    )  # fmt: skip
    return unknown


def parameters(model) -> dict:
  """Counts parameters: {"total": int, "by_component": {name: int}}."""
  counts = Counter()
  for names, leaf in model_structure.leaves(
    model_structure.one_period(model).abstract()
  ):
    times = model_structure.repeats(model, names)
    counts[model_structure.component(names)] += times * math.prod(leaf.shape)
  return {
    "total": counts.total(),
    "by_component": model_structure.in_order(counts),
  }


def flops(
  model,
  *,
  batch_size: int,
  lengths: Mapping[str, int],
  microbatches: int = 1,
) -> dict:
  """Counts the matmul FLOPs of one step, by the conventions of this module.

  Returns:
    - "forward", "training", "hardware": of all components;
    - "training_without_head": the model without embeddings and head;
    - "by_component": "training" by component; of an attention its weights and
      its "..._scores" apart.

  Raises:
    traces.Unreadable: this version of JAX writes programs another way.
  """
  rows = model.row_format.row_lengths(lengths)
  return _flops(model, batch_size, rows, microbatches)


_FLOPS = ("forward", "training", "hardware", "training_without_head")


def _flops(model, batch_size, rows, microbatches) -> dict:
  plain = model
  if not model.loss.reads_classes:  # Without chunks, whose last one is padded.
    plain = dataclasses.replace(model, loss=CrossEntropy())
  forward = _traced_flops(plain, batch_size, rows, gradient=False)
  total = forward.total()
  executed = _traced_flops(
    model, batch_size // microbatches, rows, gradient=True
  ).total()
  again = sum(
    batch_size * pairs * attention.num_heads * attention.head_dim * 2
    for stack, attention, pairs in model_structure.attentions(model, rows)
    if attention.kernel == "cudnn" and stack.remat is None
  )
  sums = (
    total,
    3 * total,
    microbatches * executed + again,
    3 * (total - forward["head"]),
  )
  return {
    **dict(zip(_FLOPS, sums, strict=True)),
    "by_component": model_structure.in_order(
      {k: 3 * v for k, v in forward.items()}
    ),
  }


def _traced_flops(model, batch_size, rows, *, gradient) -> Counter:
  """Counts the matmul FLOPs of a traced loss, or gradient, by component."""
  twin = model_structure.traceable(model)

  def objective(params, batch, key):
    return twin.objective(params, batch, key=key)

  function = jax.grad(objective) if gradient else objective
  batch = model.abstract_batch(batch_size, rows)
  key = jax.random.key(0)  # What evaluation computes is not in question.
  program = traces.trace(function, twin.abstract(), batch, key)
  counts = Counter()
  with traces.reading():
    _count(program, (), 1, counts)
  return counts


def _count(program, scope, times, counts):
  """Adds a program's matmuls to the counts of the modules they stand in."""
  for eqn in program.eqns:
    here = (*scope, *traces.scope(eqn))
    # The sum over a batch that attend.py writes as a matmul is none.
    if (flops := traces.matmul_flops(eqn)) and attend.SUM not in here:
      counts[model_structure.component_of_scope(here)] += times * flops
    for body, runs in traces.inner(eqn):
      _count(body, here, times * runs, counts)


def _cache_bytes(model, batch_size, rows) -> int:
  decoder = model.transformer.decoder
  if decoder is None:
    return 0
  cache = jax.eval_shape(
    lambda: decoder.empty_cache(
      batch_size, rows["decoder"], source_length=rows.get("encoder", 0),
      dtype=model.transformer.dtype,
    )
  )  # fmt: skip
  # Floats alone: where the tokens stand takes next to nothing.
  dtype = model.transformer.dtype
  kept = [x for x in jax.tree.leaves(cache) if x.dtype == dtype]
  return _nbytes(kept)


def _nbytes(tree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
