"""Cross-entropy whose logits never need to exist all at once."""

import dataclasses
import functools
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.losses.classification import class_targets, class_terms
from t5x_lite.losses.terms import Term, Terms
from t5x_lite.nn import sharding
from t5x_lite.nn.heads import Head

NORMALIZERS = ("target_tokens", "all_tokens", "sequences")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEntropy:
  """Scores next tokens: negative log-likelihood, plus two regularisers.

  loss = -sum_v p_v log softmax(logits)_v + z_loss * log(Z)^2, where p is
  one-hot mixed with `label_smoothing` of the uniform distribution (Szegedy et
  al. 2016, arXiv:1512.00567, section 7) and Z the partition function (PaLM,
  arXiv:2204.02311, section 5).

  Attributes:
    z_loss: weight of log(Z)^2; PaLM and T5 v1.1 train with 1e-4.
    label_smoothing: share of the uniform distribution in the target.
    normalizer: what a batch's loss is divided by: "target_tokens" (the sum of
      the loss weights), "all_tokens" (rows x length) or "sequences" (each
      row's loss is the mean over its own tokens).
    chunk_tokens: a device makes logits for about this many of its tokens at a
      time, and their gradient at once with them; None makes all [B, T, V].
    class_weight: coefficient of the classifier's cross-entropy, where a batch
      has `class_targets` (BERT's next sentence).
  """

  rows_per_unit = 1
  reads_classes = False

  z_loss: checks.NotNegative = 0.0
  label_smoothing: checks.Share = 0.0
  normalizer: str = "target_tokens"
  chunk_tokens: checks.Count | None = None
  class_weight: float = 1.0

  def __post_init__(self):
    checks.fields(self)
    checks.one_of(self, "normalizer", NORMALIZERS)

  @property
  def minimised(self) -> Mapping[str, float]:
    return {"objective": 1.0, "class_loss": self.class_weight, "moe_loss": 1.0}

  def __call__(self, model, params, batch, *, key=None) -> Terms:
    """Returns the terms of `of_tokens`, of the classifier and of MoE layers."""
    outputs = model.outputs(params, batch, key=key)
    side = model.row_format.scored_side
    terms = self.of_tokens(
      outputs.states_BTD,
      outputs.head,
      batch[f"{side}_target_tokens"],
      batch[f"{side}_loss_weights"],
    )
    if "class_targets" in batch:
      targets = class_targets(batch, outputs.tokens.segment)
      classes = class_terms(outputs.class_logits, targets)
      terms |= {f"class_{name}": term for name, term in classes.items()}
    return {**terms, **outputs.auxiliary}

  def of_tokens(
    self,
    hidden_BTD: jax.Array,
    head: Head,
    targets_BT: jax.Array,
    weights_BT: jax.Array,
  ) -> dict[str, Term]:
    """Scores the tokens of a batch.

    Args:
      hidden_BTD: the stack's output.
      head: hidden states to logits.
      targets_BT: token ids.
      weights_BT: what each token counts; 0 is not scored.

    Returns:
      "objective", what is minimised of the tokens, over what the normaliser
      divides by; and without normaliser or regularisers, over the weights:
      "loss" (nats), "z_loss" and "accuracy", which have no gradient. A target
      is correct if it is the argmax of all the model's logits: the lowest id of
      several.

    Raises:
      ValueError: `minimised` names a term without gradient.
    """
    if wrong := {"loss", "z_loss", "accuracy"} & self.minimised.keys():
      raise ValueError(
        f"{type(self).__name__}.minimised names {', '.join(sorted(wrong))}, "
        "which have no gradient: name 'objective' instead"
      )
    denominator = self.denominator(weights_BT)
    weights_BT = weights_BT.astype(jnp.float32)
    weight = jnp.sum(weights_BT)
    # Always so, but it makes devices add up the weights before anything else.
    # Sums over devices that do not depend on each other can start in another
    # order on each emulated device of a CPU, and then wait for ever.
    weights_BT = jnp.where(weight >= 0, weights_BT, 0)
    sums = _sums(
      self,
      head.soft_cap,
      (head.kernel_DV, head.bias_V),
      hidden_BTD,
      targets_BT,
      weights_BT,
      self._counted(weights_BT),
    )
    return {
      "objective": Term(sums["objective"], denominator),
      "loss": Term(sums["loss"], weight),
      "z_loss": Term(sums["z_loss"], weight),
      "accuracy": Term(sums["correct"], weight),
    }

  def denominator(self, weights_BT: jax.Array) -> jax.Array:
    """Returns what divides the objective, by the normaliser; float32."""
    weights_BT = weights_BT.astype(jnp.float32)
    if self.normalizer == "all_tokens":
      return jnp.float32(weights_BT.size)
    if self.normalizer == "sequences":
      return jnp.sum(jnp.any(weights_BT > 0, axis=1), dtype=jnp.float32)
    return jnp.sum(weights_BT)

  def _counted(self, weights_BT):
    """Returns what each token counts in the objective."""
    if self.normalizer != "sequences":
      return weights_BT
    per_row_B1 = jnp.sum(weights_BT, axis=1, keepdims=True)
    return weights_BT / jnp.maximum(per_row_B1, 1e-9)

  def pieces(self, batch: int, length: int) -> tuple[int, int]:
    """Cuts the length into (number, size) so that chunks hold chunk_tokens."""
    size = length
    if self.chunk_tokens is not None:
      size = min(length, max(1, self.chunk_tokens // batch))
    number = -(-length // size)
    return number, -(-length // number)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sums(spec, soft_cap, weights_of_head, *batch):
  return _over_shards(spec, soft_cap, weights_of_head, batch, False)[0]


def _sums_forward(spec, soft_cap, weights_of_head, *batch):
  return _over_shards(spec, soft_cap, weights_of_head, batch, True)


def _sums_backward(spec, soft_cap, gradients, cotangents):
  del spec, soft_cap
  g = cotangents["objective"]
  dhead, dhidden = jax.tree.map(lambda x: (x * g).astype(x.dtype), gradients)
  return dhead, dhidden, None, None, None


_sums.defvjp(_sums_forward, _sums_backward)


def _over_shards(spec, soft_cap, head, batch, gradients):
  """Has each device walk over the chunks of its own rows.

  Chunks of the global batch would make every device gather the head, and add
  up its gradient with all others, once a chunk: here it is once a step.
  """
  rows = len(batch[0])
  axes = sharding.mesh_axes("batch")
  number = sharding.shards(axes)
  # The precision in which it is used, so that half the bytes are gathered.
  head = (head[0].astype(batch[0].dtype), head[1])
  if number == 1 or rows % number:
    return _scan(spec, soft_cap, head, *batch, gradients)

  def cut(x):
    x = x.reshape(number, rows // number, *x.shape[1:])
    return nn.with_logical_constraint(x, ("batch", *(None,) * (x.ndim - 1)))

  head = _constrained(head, None)
  # Each device adds up a gradient of the whole head for its own rows.
  scan = functools.partial(_scan, spec, soft_cap, head, gradients=gradients)
  shards = jax.vmap(scan, spmd_axis_name=tuple(axes))
  sums, found = shards(*(cut(x) for x in batch))
  sums = jax.tree.map(jnp.sum, sums)
  if not gradients:
    return sums, found
  dhead, dhidden = found
  dhead = jax.tree.map(lambda x: jnp.sum(x, axis=0), dhead)
  dhidden = dhidden.reshape(rows, *dhidden.shape[2:])
  return sums, (_constrained(dhead, "embed"), dhidden)


def _constrained(head, embed):
  """Shards the kernel and bias of a head, its D as the axis `embed` is."""
  kernel_DV, bias_V = head
  if bias_V is not None:
    bias_V = nn.with_logical_constraint(bias_V, ("vocab",))
  return nn.with_logical_constraint(kernel_DV, (embed, "vocab")), bias_V


def _scan(
  spec, soft_cap, head, hidden_BTD, targets, weights, counted, gradients
):
  """Walks over pieces of the length; takes the gradient while logits are hot.

  Doing so in the forward pass saves both the logits and their recomputation:
  the gradient with respect to hidden states and kernel is small beside them.
  """
  batch, length, _ = hidden_BTD.shape
  number, size = spec.pieces(batch, length)
  logits_of = Head(*head, soft_cap)

  def cut(x):
    """[B, T, ...] -> [number, B, size, ...]; the tail is padded, weight 0."""
    rest = ((0, 0),) * (x.ndim - 2)
    x = jnp.pad(x, ((0, 0), (0, number * size - length), *rest))
    return x.reshape(batch, number, size, *x.shape[2:]).swapaxes(0, 1)

  def piece(dhead, xs):
    hidden, targets, weights, counted = xs
    logits = logits_of(hidden)
    sums, dlogits = _token_losses(spec, logits, targets, weights, counted)
    if not gradients:
      return dhead, (sums, None)
    if soft_cap is not None:
      dlogits *= 1 - jnp.square(logits / soft_cap)
    dbias = None if head[1] is None else jnp.sum(dlogits, axis=(0, 1))
    dlogits = dlogits.astype(hidden.dtype)
    rows, drows = (x.reshape(-1, x.shape[-1]) for x in (hidden, dlogits))
    dhidden = (drows @ head[0].T).reshape(hidden.shape)
    dkernel = jnp.matmul(rows.T, drows, preferred_element_type=jnp.float32)
    return jax.tree.map(jnp.add, dhead, (dkernel, dbias)), (sums, dhidden)

  xs = tuple(cut(x) for x in (hidden_BTD, targets, weights, counted))
  dhead = None
  if gradients:
    # float32: a sum over all tokens.
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), head)
    dhead = _constrained(zeros, None)
  if number == 1:
    dhead, (sums, dhidden) = piece(dhead, jax.tree.map(lambda x: x[0], xs))
  else:
    dhead, (sums, dhidden) = jax.lax.scan(piece, dhead, xs)
    sums = jax.tree.map(jnp.sum, sums)
    if gradients:
      dhidden = dhidden.swapaxes(0, 1).reshape(batch, -1, dhidden.shape[-1])
      dhidden = dhidden[:, :length]
  return sums, (dhead, dhidden)


def _token_losses(spec, logits, targets, weights, counted):
  """Returns the sums over one piece, and d objective / d logits."""
  vocab_size = logits.shape[-1]
  log_z = jax.nn.logsumexp(logits, axis=-1)
  at_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
  nll = log_z - at_target
  smooth = spec.label_smoothing
  loss = (1 - smooth) * nll
  if smooth:
    loss += smooth * (log_z - jnp.mean(logits, axis=-1))
  z_loss = spec.z_loss * jnp.square(log_z)
  ids = jnp.arange(vocab_size)
  # The argmax, as one reduction of booleans: no lower id is as probable, no
  # higher one more. A logit that is no number compares as neither.
  here, best = targets[..., None], at_target[..., None]
  correct = jnp.all(
    jnp.where(ids < here, logits < best, logits <= best), axis=-1
  )
  sums = {
    "objective": jnp.sum((loss + z_loss) * counted),
    "loss": jnp.sum(nll * weights),
    "z_loss": jnp.sum(z_loss * weights),
    "correct": jnp.sum(correct * weights),
  }
  is_target = ids == here
  dlogits = counted[..., None] * (
    jnp.exp(logits - log_z[..., None])
    * (1 + 2 * spec.z_loss * log_z)[..., None]
    - (1 - smooth) * is_target
    - smooth / vocab_size
  )
  return sums, dlogits
