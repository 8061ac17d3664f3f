"""Predicts activation memory from a trace of the backward pass."""

import jax
import jax.numpy as jnp

from t5x_lite.accounting import model_structure, traces
from t5x_lite.losses import CrossEntropy
from t5x_lite.nn.kernels import partition


def predict(model, params, batch_size, rows, platform) -> int:
  """Predicts the peak bytes of activations, at the end of the forward pass.

  They are the residuals that autodiff keeps for the backward pass, and the
  temporaries: the logits of one chunk and their gradient or, if layers are
  scanned or rematerialised, one whole layer.

  XLA on the CPU (platform="cpu") widens half precision to float32, and saves
  nothing by remat unless layers are scanned: it recomputes all layers before
  the backward pass.

  Raises:
    traces.Unreadable: this version of JAX has an unknown program format.
  """
  model = model_structure.with_settled_remat(model)
  stacks = model_structure.stacks(model)
  scan = any(stack.scan for stack in stacks)
  if platform == "cpu" and not scan:
    model = model_structure.with_remat(model, None)
  remat = any(stack.remat for stack in model_structure.stacks(model))

  def kept(model):
    return _kept(model, params, batch_size, rows, platform, scan)

  total, layer = kept(model)
  if remat:
    layer = kept(model_structure.with_remat(model, None))[1]
  logits = 0
  if isinstance(model.loss, CrossEntropy):
    length = rows[model.row_format.scored_side]
    _, length = model.loss.pieces(batch_size, length)
    logits = 4 * batch_size * length * model.transformer.vocab_size
  return total + max(2 * logits, layer if scan or remat else 0)


def _kept(model, params, batch_size, rows, platform, scan) -> tuple[int, int]:
  """Traces the residuals that the backward pass reads.

  Args:
    model: the model.
    params: the parameters of the traceable model.
    batch_size: rows of a microbatch.
    rows: the length of a row's encoder and decoder side.
    platform: "cpu", or another.
    scan: whether layers are scanned when the model runs.

  Returns:
    Their bytes in total, and the bytes of the largest period of layers.
  """
  traced = model_structure.traceable(model)

  def backward(params, batch, key):
    def objective(params):
      return traced.objective(params, batch, key=key)

    return jax.vjp(objective, params)[1]

  batch, key = model.abstract_batch(batch_size, rows), jax.random.key(0)
  with partition.assumed(platform):
    jaxpr = traces.trace(backward, params, batch, key)
  with traces.reading():
    return _read(jaxpr, model, batch_size, rows, platform, scan)


def _read(jaxpr, model, batch_size, rows, platform, scan) -> tuple[int, int]:
  views = {"reshape", "squeeze", "expand_dims"}
  if platform == "cpu":
    views.add("convert_element_type")

  def nbytes(variable):
    size = variable.aval.dtype.itemsize
    if platform == "cpu" and jnp.issubdtype(variable.aval.dtype, jnp.floating):
      size = max(size, 4)
    return variable.aval.size * size

  # Scalars are ignored: they are tiny, and literals cannot be hashed.
  kept = {v for v in jaxpr.outvars if v.aval.shape}
  kept -= _views(jaxpr.eqns, jaxpr.invars, views)
  scans = traces.scans(jaxpr)
  transformer, total = model.transformer, sum(map(nbytes, kept))
  if isinstance(model.loss, CrossEntropy):
    # It computes the head's gradient in the forward pass: no activation.
    tied = transformer.lm_head.tied
    width = transformer.embedding.width if tied else None
    total -= 4 * (width or transformer.top_width) * transformer.vocab_size
  periods = []
  for loop in scans[: len(model_structure.stacks(model))]:
    stacked = kept.intersection(loop.stacked)
    if not scan:  # Only a scan copies reshaped kernels.
      same = _views(loop.body.eqns, loop.sliced, views)
      copies = {
        out for out in stacked
        if (v := loop.stacked[out]).aval.shape and v in same
      }  # fmt: skip
      total -= sum(map(nbytes, copies))
      stacked -= copies
    periods.append(sum(map(nbytes, stacked)) // loop.length)
  unkept = [
    batch_size
    * pairs
    * attention.num_heads
    * jnp.dtype(transformer.dtype).itemsize
    for attention, pairs in model_structure.unkept_scores(model, rows, platform)
  ]
  largest = max(periods) - max(unkept, default=0)
  return total - sum(unkept), largest


def _views(eqns, roots, primitives) -> set:
  """Returns the variables that share the roots' memory, reshaped."""
  found = set(roots)
  for eqn in eqns:
    if eqn.primitive.name in primitives and eqn.invars[0] in found:
      found.add(eqn.outvars[0])
  return found
