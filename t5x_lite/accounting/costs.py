"""Counts a model's parameters, FLOPs and bytes, before it is built.

No arrays are computed: parameters are counted from their shapes, FLOPs and
activations from traces of the program.

FLOPs are those of matmuls, 2 per multiply-add, as the program computes them:

- A weight is used once per token: an encoder's weights for the encoder's
  tokens, a decoder's for the decoder's, and the key and value weights of
  cross-attention for the encoder's. An embedding lookup is free.
- Attention scores are counted in full, T x S products for the logits and T x S
  for the weighted sum, even if the attention rule masks half of them (a kernel
  that skips masked blocks computes half). PaLM counts this way too,
  arXiv:2204.02311, appendix B: 6 N + 12 L (heads) H T per token for a decoder
  of N parameters.
- An expert costs its full training capacity (moe.py), filled or not.
- Training costs three times the forward pass: the backward pass has two matmuls
  for each one (Kaplan et al. 2020, arXiv:2001.08361, section 2.1).
- "training" counts model FLOPs, without recomputation, and is the basis of
  FLOP/s and budgets. "hardware" counts the traced gradient. It adds what remat
  recomputes, the scores that a fused kernel recomputes (Dao 2023,
  arXiv:2307.08691, section 2.3), and the padding of a chunked loss's last
  chunk.
"""

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
from absl import logging

from t5x_lite.accounting import activation_memory, model_structure, traces
from t5x_lite.devices import memory
from t5x_lite.devices.layout import Layout
from t5x_lite.losses.cross_entropy import CrossEntropy
from t5x_lite.nn.kernels import einsum

Size = TypeVar("Size")


def describe(
  model,
  *,
  batch_size: int,
  lengths: Mapping[str, int],
  optimizer=None,
  microbatches: int = 1,
  platform: str | None = None,
  layout: Layout | None = None,
) -> dict:
  """Returns the parameters, FLOPs and bytes of one training step.

  Args:
    model: a model.Model with a known vocabulary size.
    batch_size: rows of a global batch.
    lengths: {task feature: tokens}, as row_formats.py reads them.
    optimizer: one of optimizers.py; None has no state.
    microbatches: the number of microbatches per batch.
    platform: the platform to run on; "cpu" is special (activation_memory.py).
    layout: how devices share the step; None for one device.

  Returns:
    A dict that can be written as JSON:
    - "architecture", "batch_size", "row_lengths", and "tokens_per_step", of
      encoder and decoder together;
    - "parameters": "total" and "by_component";
    - "flops_per_step", "flops_per_token": of training, head included;
    - "flops": of one step, see `flops`;
    - "kernels": that compute the attentions;
    - "bytes", of a device: "parameters", "gradients", "optimizer" and
      "activations" (of one microbatch, and of parameters in half precision);
      "total", the peak of a training step (devices/memory.py); and "kv_cache",
      for generating a batch of such rows.
    FLOPs and activations come from traced programs. If the installed JAX has an
    unknown program format, they and the sums over them are NaN, and a warning
    is logged.

  Raises:
    ValueError: a length is missing, microbatches do not divide the batch, or an
      attention kernel does not serve its layer on the platform.
  """
  if batch_size % microbatches:
    raise ValueError(
      f"batch_size ({batch_size}) must be divisible by microbatches "
      f"({microbatches})"
    )
  rows = model.row_format.row_lengths(lengths)
  step = _known(
    "FLOPs",
    lambda: _flops(model, batch_size, rows, microbatches, platform),
    dict.fromkeys(_FLOPS, math.nan) | {"by_component": {}},
  )
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
    "kernels": sorted(set(model_structure.kernels(model, rows, platform))),
    "bytes": device_bytes(
      model,
      batch_size=batch_size,
      lengths=lengths,
      optimizer=optimizer,
      microbatches=microbatches,
      platform=platform,
      layout=layout,
    ),  # fmt: skip
  }


def device_bytes(
  model,
  *,
  batch_size: int,
  lengths: Mapping[str, int],
  optimizer,
  microbatches: int,
  platform: str | None,
  layout: Layout | None,
) -> dict[str, int]:
  """Returns the "bytes" of `describe`, which has the arguments."""
  rows = model.row_format.row_lengths(lengths)
  twin = model_structure.traceable(model)
  params, axes = twin.abstract(), twin.logical_axes()
  parts, held = dict.fromkeys(activation_memory.WHOLE, 1), params
  row_parts = 1
  if layout is not None:
    layout = layout.fit(axes, params)
    held = jax.tree.map(
      lambda x, s: jax.ShapeDtypeStruct(s.shard_shape(x.shape), x.dtype),
      params,
      layout.tree_shardings(axes, params),
    )
    parts = {axis: layout.parts(axis) for axis in parts}
    row_parts = layout.parts("batch")
  # A step computes with float32 parameters, whatever dtype they are kept in.
  params, gradients = (
    jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), tree)
    for tree in (params, held)
  )
  param_bytes, gradient_bytes = _nbytes(held), _nbytes(gradients)
  state_bytes = 0
  if optimizer is not None:
    state = jax.eval_shape(optimizer.build(axes).init, params)
    # It is sharded as the parameters are.
    state_bytes = _nbytes(state) * gradient_bytes // _nbytes(params)
  stacks = model_structure.stacks(model)
  scan = platform != "cpu" and any(stack.scan for stack in stacks)
  copies, itemsize = 0, jnp.dtype(model.transformer.dtype).itemsize
  if scan and itemsize < 4:
    copies = _layers_bytes(gradients) * itemsize // 4
  shared_rows = -(-batch_size // row_parts)
  sizes = {
    "parameters": param_bytes,
    # With microbatches, the sum of gradients is kept beside the newest ones.
    "gradients": gradient_bytes * (1 if microbatches == 1 else 2),
    "optimizer": state_bytes,
    "activations": copies
    + _known(
      "bytes of activations",
      lambda: activation_memory.predict(
        model, -(-shared_rows // microbatches), rows, platform, parts
      ),
      math.nan,
    ),
  }
  return {
    **sizes,
    "total": memory.peak(sizes, scan=scan),
    "kv_cache": _cache_bytes(
      model_structure.of_one_device(model, parts), shared_rows, rows
    ),
  }


def _layers_bytes(params) -> int:
  """Returns the bytes of the parameters that a loop over layers reads."""
  return sum(
    leaf.size * leaf.dtype.itemsize
    for names, leaf in model_structure.leaves(params)
    if "layers" in names
  )


def _known(what: str, read: Callable[[], Size], unknown: Size) -> Size:
  """Returns a size read from a program, or warns and returns `unknown`."""
  try:
    return read()
  except traces.Unreadable as error:
    logging.warning(
      "%s are unknown: cannot read the programs of JAX %s (%s)",
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
    - "training_without_head": "training" without embeddings and head;
    - "by_component": "training" by component; an attention's weights and its
      "..._scores" are separate.

  Raises:
    traces.Unreadable: this version of JAX has an unknown program format.
  """
  rows = model.row_format.row_lengths(lengths)
  return _flops(model, batch_size, rows, microbatches, platform=None)


_FLOPS = ("forward", "training", "hardware", "training_without_head")


def _flops(model, batch_size, rows, microbatches, platform) -> dict:
  plain = model = model_structure.with_settled_remat(model)
  if isinstance(model.loss, CrossEntropy):
    # An unchunked loss: the last chunk of a chunked one is padded.
    plain = dataclasses.replace(model, loss=CrossEntropy())
  forward = _traced_flops(plain, batch_size, rows, gradient=False)
  total = forward.total()
  executed = _traced_flops(
    model, batch_size // microbatches, rows, gradient=True
  ).total()
  again = sum(
    batch_size * pairs * attention.num_heads * attention.head_dim * 2
    for attention, pairs in model_structure.unkept_scores(model, rows, platform)
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
  key = jax.random.key(0)  # With a dropout key: the training loss.
  program = traces.trace(function, twin.abstract(), batch, key)
  counts = Counter()
  with traces.reading():
    _count(program, (), 1, counts)
  return counts


def _count(program, scope, times, counts):
  """Adds a program's matmul FLOPs to the counts of their components."""
  for eqn in program.eqns:
    here = (*scope, *traces.scope(eqn))
    # einsum.py writes a sum over the batch as a matmul: not counted.
    if (flops := traces.matmul_flops(eqn)) and einsum.SUM not in here:
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
  # Keys and values only: positions and lengths take almost nothing.
  dtype = model.transformer.dtype
  kept = [x for x in jax.tree.leaves(cache) if x.dtype == dtype]
  return _nbytes(kept)


def _nbytes(tree) -> int:
  return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))
