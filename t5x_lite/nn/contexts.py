"""What attention and layers read beside their activations."""

from collections.abc import Callable
from typing import NamedTuple

import jax

from t5x_lite.nn import attention_rules
from t5x_lite.nn.attention_rules import AttentionRule, Full, TokenInfo
from t5x_lite.nn.caches import Int8KVCache, KVCache, SharedKV
from t5x_lite.nn.kernels.bias import Bias, as_array
from t5x_lite.nn.kernels.table import KERNELS
from t5x_lite.nn.kernels.visibility import Visibility
from t5x_lite.nn.positions import PositionEncoding


class AttentionContext(NamedTuple):
  """Which queries attend to which keys, with which bias on their logits.

  Attributes:
    query, key: where the tokens stand, for encodings that rotate.
    visibility: which keys a query sees.
    bias: float32 [B or 1, N or 1, T, S], a function of the distance, or None.
    kernel: what computes the attention, a name in KERNELS; it finds mask and
      bias as it reads them.
  """

  query: TokenInfo
  key: TokenInfo
  visibility: Visibility
  bias: Bias
  kernel: str

  def with_bias(self, bias: Bias) -> "AttentionContext":
    """Returns the context with another bias, as the kernel reads it."""
    if KERNELS[self.kernel].reads_bias:
      bias = as_array(bias, self.query.index, self.key.index)
    return self._replace(bias=bias)


class AttentionContexts:
  """Makes the contexts of a stack's layers, from query to key tokens.

  A mask or a bias that layers read as an array is made once for all of them,
  and not at all if none does.
  """

  def __init__(
    self,
    query: TokenInfo,
    key: TokenInfo,
    bias: Bias = None,
    *,
    dtype: str = "float32",
    cached: bool = False,
    training: bool = False,
    probed: bool = False,
  ):
    """Makes nothing yet.

    Args:
      query, key: where the tokens stand.
      bias: of the stack's position encoding.
      dtype: of the activations.
      cached: whether the keys are those of a cache.
      training: whether there is dropout.
      probed: whether the attention probabilities are read, which only the
        einsum kernel has.
    """
    self._query, self._key, self._bias = query, key, bias
    self._dtype, self._cached = dtype, cached
    self._training, self._probed = training, probed
    self._visibilities, self._biases = {}, {}

  def of(
    self, attention, rule: AttentionRule, bias_kind: str | None
  ) -> AttentionContext:
    """Returns the context of an attention, whose kernel it chooses.

    Args:
      attention: an Attention.
      rule: its attention rule.
      bias_kind: of its position encoding (PositionEncoding.bias_kind).

    Raises:
      ValueError: the attention's kernel does not take this.
    """
    if self._probed:
      return self.by_kernel(rule, "einsum")
    kernel = attention.kernel(
      rule,
      bias_kind,
      lengths=(self._query.index.shape[1], self._key.index.shape[1]),
      dtype=self._dtype,
      cached=self._cached,
      training=self._training,
    )
    return self.by_kernel(rule, kernel)

  def by_kernel(self, rule: AttentionRule, kernel: str) -> AttentionContext:
    """Returns the context of an attention that a kernel computes."""
    row = KERNELS[kernel]
    key = rule, row.reads_mask
    if key not in self._visibilities:
      self._visibilities[key] = attention_rules.visibility(
        rule, self._query, self._key, with_mask=row.reads_mask
      )
    context = AttentionContext(
      self._query, self._key, self._visibilities[key], None, kernel
    )
    if row.reads_bias not in self._biases:
      self._biases[row.reads_bias] = context.with_bias(self._bias).bias
    return context._replace(bias=self._biases[row.reads_bias])


class LayerContext(NamedTuple):
  """What the layers of a stack read beside their activations.

  Attributes:
    attention: of self-attention, with the bias of the stack's position.
    position: the stack's.
    source_BSD: encoder output, or None; see Stack.__call__.
    cross_attention: of cross-attention, or None.
    shared_kv: what self-attention reads instead of its own keys, or None.
  """

  attention: AttentionContext
  position: PositionEncoding
  source_BSD: jax.Array | None
  cross_attention: AttentionContext | None
  shared_kv: KVCache | Int8KVCache | None


def layer_contexts(
  stack,
  tokens: TokenInfo,
  keys: TokenInfo,
  *,
  dtype: str,
  rule: AttentionRule | None,
  source_BSD: jax.Array | None,
  source_tokens: TokenInfo | None,
  cached: bool,
  shared_kv: SharedKV | None,
) -> Callable[..., LayerContext]:
  """Returns a function from a layer of a stack to its context.

  Args:
    stack: a bound Stack.
    tokens: where the queries stand.
    keys: where the keys of self-attention stand: the queries' own, or those of
      a cache.
    dtype: of the activations.
    rule, source_BSD, source_tokens, shared_kv: see Stack.__call__.
    cached: whether the source's keys and values are those of a cache.

  Raises:
    ValueError: the kernel of a layer's attention does not take what it asks.
  """
  settings = {
    "dtype": dtype,
    "training": stack.has_rng("dropout"),
    # As in init, which no kernel of an accelerator should have to run.
    "probed": stack.is_mutable_collection("probes"),
  }
  bias = stack.position.bias(tokens, keys)
  attending = AttentionContexts(
    tokens, keys, bias, cached=keys is not tokens, **settings
  )
  crossing = source_tokens and AttentionContexts(
    tokens, source_tokens, cached=cached, **settings
  )

  def context(layer) -> LayerContext:
    position, cross = layer.position or stack.position, layer.cross_attention
    return LayerContext(
      attending.of(
        layer.attention, rule or layer.rule or stack.rule, position.bias_kind
      ),
      stack.position,
      source_BSD,
      cross and crossing and crossing.of(cross, Full(), None),
      shared_kv and shared_kv.kv,
    )

  for layer in stack.period:
    context(layer)  # Makes masks and biases outside of the loop over layers.
  return context
