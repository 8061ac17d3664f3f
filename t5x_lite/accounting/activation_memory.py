"""Predicts activation memory from a trace of the backward pass.

What XLA holds at the peak of a step with scanned layers, read off the buffers
of compiled programs:

- What autodiff keeps of each layer, stacked [L, ...]: of a fused attention
  kernel its queries, keys, values, output and log-sum-exp, of einsum also the
  scores and the mask. Not the layers' parameters: what a backward pass reads of
  them is converted again.
- A copy of the layers' parameters in half precision, made for all layers before
  the loop over them (costs.py adds it, as it knows how they are sharded).
- While the loss is computed, the head, its gradient (float32, once as each
  device adds it up and once as all do), and the logits of one chunk with their
  gradient. Or else, in the backward pass, what one layer computes again, or at
  least the gradients of its two widest arrays.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from t5x_lite.accounting import model_structure, traces
from t5x_lite.losses import CrossEntropy
from t5x_lite.nn.kernels import partition

WHOLE = {"heads": 1, "kv_heads": 1, "mlp": 1, "vocab": 1}
_VIEWS = {"reshape", "squeeze", "expand_dims"}


def predict(
  model, batch_size: int, rows, platform, parts: Mapping[str, int] = WHOLE
) -> int:
  """Predicts the peak bytes of a device's activations.

  XLA on the CPU (platform="cpu") widens half precision to float32, and saves
  nothing by remat unless layers are scanned: it recomputes all layers before
  the backward pass. There, and where layers are not scanned, parameters have no
  copies, and float32 arrays outside of layers count as they are traced.

  Args:
    model: the model.
    batch_size: rows of a microbatch on one device.
    rows: the length of a row's encoder and decoder side.
    platform: "cpu", or another.
    parts: the devices that share each logical axis.

  Raises:
    traces.Unreadable: this version of JAX has an unknown program format.
  """
  model = model_structure.with_settled_remat(model)
  model = model_structure.of_one_device(model, parts)
  scan = any(stack.scan for stack in model_structure.stacks(model))
  if platform == "cpu" and not scan:
    model = model_structure.with_remat(model, None)
  remat = any(stack.remat for stack in model_structure.stacks(model))
  trace = _Trace(model, batch_size, rows, platform, scan)
  again, widest = trace.layer, trace.widest
  if remat:
    plain = model_structure.with_remat(model, None)
    plain = _Trace(plain, batch_size, rows, platform, scan)
    again, widest = plain.layer, plain.widest
  if trace.fuses:
    again = max(again - trace.layer, 2 * widest)
  loss = _loss_bytes(model, batch_size, rows, parts["vocab"], fuses=trace.fuses)
  return trace.total + max(loss, again if scan or remat else 0)


def _loss_bytes(model, batch_size, rows, vocab_parts, *, fuses) -> int:
  """Returns the bytes of the chunked loss's temporaries."""
  if not isinstance(model.loss, CrossEntropy):
    return 0
  transformer = model.transformer
  length = rows[model.row_format.scored_side]
  _, length = model.loss.pieces(batch_size, length)
  vocab_size = -(-transformer.vocab_size // vocab_parts)
  logits = batch_size * length * vocab_size
  if not fuses:
    return 2 * 4 * logits
  itemsize = jnp.dtype(transformer.dtype).itemsize
  head = _head_width(transformer) * vocab_size
  return (2 * 4 + itemsize) * head + (4 + itemsize) * logits


def _head_width(transformer) -> int:
  tied = transformer.lm_head.tied
  return (tied and transformer.embedding.width) or transformer.top_width


class _Trace:
  """Reads the residuals of a traced backward pass.

  Attributes:
    fuses: whether XLA runs a loop over layers on an accelerator.
    total: bytes of all residuals.
    layer: bytes of the largest period of layers.
    widest: bytes of the largest array of a layer.
  """

  def __init__(self, model, batch_size, rows, platform, scan):
    self.fuses = scan and platform != "cpu"
    self._platform = platform
    traced = model_structure.traceable(model, rows, platform)
    params = traced.abstract()

    def backward(params, batch, key):
      def objective(params):
        return traced.objective(params, batch, key=key)

      return jax.vjp(objective, params)[1]

    batch = model.abstract_batch(batch_size, rows)
    with partition.assumed(platform):
      jaxpr = traces.trace(backward, params, batch, jax.random.key(0))
    with traces.reading():
      self._read(jaxpr, model, scan)
    unkept = [
      batch_size
      * pairs
      * attention.num_heads
      * jnp.dtype(model.transformer.dtype).itemsize
      for attention, pairs in model_structure.unkept_scores(
        model, rows, platform, traced=True
      )
    ]
    self.total -= sum(unkept)
    self.layer -= max(unkept, default=0)

  def _read(self, jaxpr, model, scan):
    # Scalars are ignored: they are tiny, and literals cannot be hashed.
    kept = {v for v in jaxpr.outvars if v.aval.shape}
    kept -= self._views(jaxpr.eqns, jaxpr.invars)
    loops = traces.scans(jaxpr)[: len(model_structure.stacks(model))]
    self.layer = self.widest = self.total = 0
    for loop in loops:
      stacked = kept.intersection(loop.stacked)
      kept -= stacked
      if self.fuses or not scan:  # A CPU's scan does copy reshaped kernels.
        same = self._views(loop.body.eqns, loop.sliced)
        stacked = {out for out in stacked if loop.stacked[out] not in same}
      sizes = [self._nbytes(v) for v in stacked]
      self.total += sum(sizes)
      self.layer = max(self.layer, sum(sizes) // loop.length)
      self.widest = max(self.widest, max(sizes, default=0) // loop.length)
    transformer = model.transformer
    if self.fuses:
      # Converted again from half precision, where they are read; so is the
      # head's gradient, which the loss counts.
      half = jnp.dtype(transformer.dtype).itemsize
      kept = {v for v in kept if v.aval.dtype.itemsize <= half}
    elif isinstance(model.loss, CrossEntropy):
      # It computes the head's gradient in the forward pass: no activation.
      self.total -= 4 * _head_width(transformer) * transformer.vocab_size
    self.total += sum(map(self._nbytes, kept))

  def _nbytes(self, variable) -> int:
    dtype = variable.aval.dtype
    size = dtype.itemsize
    if self._platform == "cpu" and jnp.issubdtype(dtype, jnp.floating):
      size = max(size, 4)
    return variable.aval.size * size

  def _views(self, eqns, roots) -> set:
    """Returns the variables that share the roots' memory, reshaped."""
    views = _VIEWS
    if self.fuses or self._platform == "cpu":
      views = views | {"convert_element_type"}
    found = set(roots)
    for eqn in eqns:
      if eqn.primitive.name in views and eqn.invars[0] in found:
        found.add(eqn.outvars[0])
    return found
