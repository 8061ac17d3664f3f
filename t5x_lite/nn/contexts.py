"""What attention and layers read beside their activations."""

from typing import NamedTuple

import jax

from t5x_lite.nn import attention_rules
from t5x_lite.nn.attention_rules import AttentionRule, TokenInfo
from t5x_lite.nn.caches import KVCache
from t5x_lite.nn.positions import PositionEncoding


class AttentionContext(NamedTuple):
  """Which queries attend to which keys, with which bias on their logits.

  Attributes:
    query, key: where the tokens stand, for encodings that rotate.
    mask: bool [B or 1, T, S], True where the query sees the key.
    bias: float32 [B or 1, N or 1, T, S], or None.
  """

  query: TokenInfo
  key: TokenInfo
  mask: jax.Array
  bias: jax.Array | None


def attention_context(
  rule: AttentionRule,
  query: TokenInfo,
  key: TokenInfo,
  bias: jax.Array | None = None,
) -> AttentionContext:
  """Returns the context of attention from query to key tokens under a rule."""
  mask = attention_rules.mask(rule, query, key)
  return AttentionContext(query, key, mask, bias)


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
  shared_kv: KVCache | None
