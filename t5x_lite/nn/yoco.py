"""A decoder over a decoder: one cache of keys and values for its upper half.

Sun et al. 2024, You Only Cache Once, arXiv:2405.05254.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from t5x_lite import checks
from t5x_lite.nn import attention_rules
from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.caches import (
  KVCache,
  SharedKV,
  StackCache,
  empty_tokens,
  write_tokens,
)
from t5x_lite.nn.positions import PositionEncoding
from t5x_lite.nn.stack import Stack


class DecoderDecoderCache(NamedTuple):
  """The caches of both halves."""

  self_decoder: StackCache
  shared: SharedKV


class DecoderDecoder(nn.Module):
  """Runs a self-decoder, and over its output a cross-decoder.

    h = self_decoder(x)             windowed attention: a cache of constant size
    k, v = norm(h) K, norm(h) V     once, for all layers above
    y = cross_decoder(h; k, v)      global attention, no cache of its own

  Takes the place of a Stack as Transformer.decoder.

  Attributes:
    self_decoder: the lower half; its rule is usually a Window.
    cross_decoder: the upper half; its attention has queries alone.
    norm: of the self-decoder's output, before keys and values.
  """

  self_decoder: Stack
  cross_decoder: Stack
  norm: nn.Module

  def __post_init__(self):
    checks.fields(self)
    shapes = {
      (layer.attention.kv_heads,
       layer.attention.head_dim)
      for layer in self.cross_decoder.period
    }  # fmt: skip
    if len(shapes) > 1:
      raise ValueError(
        "the cross_decoder's layers must have one num_kv_heads and head_dim, "
        f"to read one cache, not {sorted(shapes)}"
      )
    if any(layer.position for layer in self.cross_decoder.period):
      raise ValueError(
        "the cross_decoder's layers read one cache of keys, rotated once: set "
        "Stack.position, not Layer.position"
      )
    if any(layer.cross_attention for layer in self.layers):
      raise ValueError("a DecoderDecoder has no encoder: no cross_attention")
    if any(stack.pool > 1 for stack in self.stacks):
      raise ValueError("Stack.pool is for encoders alone: use pool=1 in both")
    super().__post_init__()

  @property
  def rule(self) -> attention_rules.AttentionRule:
    """Returns the cross-decoder's attention rule."""
    return self.cross_decoder.rule

  @property
  def position(self) -> PositionEncoding:
    """Returns the encoding that is added to the embeddings."""
    return self.self_decoder.position

  @property
  def layers(self) -> tuple:
    """Returns all layers in order."""
    return self.self_decoder.layers + self.cross_decoder.layers

  @property
  def num_layers(self) -> int:
    """Returns the layers of both halves."""
    return len(self.layers)

  @property
  def pool(self) -> int:
    """Returns 1: a decoder does not pool."""
    return 1

  @property
  def final_norm(self) -> nn.Module | None:
    """Returns the cross-decoder's final norm."""
    return self.cross_decoder.final_norm

  @property
  def stacks(self) -> tuple[Stack, ...]:
    """Returns the stacks that run one after the other."""
    return self.self_decoder, self.cross_decoder

  def map_stacks(self, change: Callable[[Stack], Stack]) -> "DecoderDecoder":
    """Returns a copy with both halves changed."""
    lower, upper = map(change, self.stacks)
    return self.clone(self_decoder=lower, cross_decoder=upper)

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    tokens: TokenInfo,
    *,
    cache: DecoderDecoderCache | None = None,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, DecoderDecoderCache | None]:
    """Runs both halves; arguments and results as of Stack.__call__."""
    x_BTD, self_cache = self.self_decoder(
      x_BTD, tokens, cache=cache and cache.self_decoder, slot=slot
    )
    shared = self._shared(x_BTD, tokens, cache and cache.shared, slot)
    x_BTD, _ = self.cross_decoder(x_BTD, tokens, shared_kv=shared)
    return x_BTD, cache and DecoderDecoderCache(self_cache, shared)

  def _shared(self, x_BTD, tokens, cache, slot) -> SharedKV:
    attention = self.cross_decoder.period[0].attention
    x_BTD = self.norm.copy(name="shared_norm")(x_BTD)

    def heads(name):
      x_BSKH = attention.projections.to_heads(
        x_BTD, "kv_heads", (attention.kv_heads, attention.head_dim),
        name=f"shared_{name}",
      )  # fmt: skip
      axes = ("batch", "kv_length", "kv_heads", "head_dim")
      return nn.with_logical_constraint(x_BSKH, axes).swapaxes(1, 2)

    keys = self.cross_decoder.position.rotate(heads("key"), tokens)
    kv = KVCache(keys, heads("value"))
    if cache is None:
      return SharedKV(kv, tokens)
    written = write_tokens(cache.tokens, tokens, slot)
    return SharedKV(cache.kv.write(kv, slot), written)

  def empty_cache(
    self,
    batch: int,
    length: int,
    *,
    source_length: int = 0,
    dtype,
    chunk: int | None = None,
  ) -> DecoderDecoderCache:
    """Returns an empty cache; arguments as of Stack.empty_cache."""
    del source_length
    attention = self.cross_decoder.period[0].attention
    kv = attention.empty_cache(batch, length, dtype)
    return DecoderDecoderCache(
      self.self_decoder.empty_cache(batch, length, dtype=dtype, chunk=chunk),
      SharedKV(kv, empty_tokens(batch, length)),
    )
