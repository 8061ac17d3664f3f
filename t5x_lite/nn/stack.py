"""Layer and Stack: the body of every architecture.

An encoder, a causal decoder, a prefix-LM and the decoder over an encoder are
the same stack under another visibility rule (nn/visibility.py).
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite.nn import checks, visibility
from t5x_lite.nn.attention import Attention, KVCache, Sight
from t5x_lite.nn.dropout import dropout
from t5x_lite.nn.positions import NoPosition
from t5x_lite.nn.visibility import Tokens

REMAT_POLICIES = {
  # Save only the input of each layer, and compute the rest again.
  "full": None,
  # Save what weight matmuls give, and compute the T x S arrays again.
  "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
}


class LayerCache(NamedTuple):
  """What a layer keeps between decoding steps."""

  attention: KVCache
  cross_attention: KVCache | None


class StackCache(NamedTuple):
  """What a stack keeps between decoding steps.

  Attributes:
    layers: one LayerCache per layer, stacked on a first axis under scan.
    tokens: [B, S], where each cached token stands; segment 0 is an empty slot.
  """

  layers: tuple[LayerCache, ...] | LayerCache
  tokens: Tokens


class Layer(nn.Module):
  """Self-attention, cross-attention where there is a source, feed-forward.

  Serial:    x += attention(norm(x));  x += mlp(norm(x))
  Parallel:  x += attention(norm(x)) + mlp(norm(x)), one norm for both
             (Wang and Komatsuzaki 2021, GPT-J; PaLM, arXiv:2204.02311, s. 2)

  Attributes:
    attention: self-attention.
    mlp: feed-forward.
    norm: copied for each place that a norm stands.
    cross_attention: attention to the source, or None.
    parallel: whether attention and feed-forward stand side by side.
    dropout_rate: share of each branch's output dropped in training.
  """

  attention: Attention
  mlp: nn.Module
  norm: nn.Module
  cross_attention: Attention | None = None
  parallel: bool = False
  dropout_rate: float = 0.0

  def __post_init__(self):
    checks.dropout_rate(self)
    if self.parallel and self.cross_attention is not None:
      raise ValueError(
        "parallel=True has no place for cross_attention: use parallel=False "
        "in the decoder of an encoder-decoder"
      )
    if self.cross_attention is self.attention:
      # One instance in two places would silently share its parameters.
      self.cross_attention = self.attention.clone()
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    cache: LayerCache | None,
    source_BSD: jax.Array | None,
    sight: Sight,
    cross_sight: Sight | None,
    position: NoPosition,
    slot: jax.Array | None,
  ) -> tuple[jax.Array, LayerCache | None]:
    def norm(name):
      return self.norm.copy(name=name)

    def drop(y_BTD):
      return dropout(self, y_BTD, self.dropout_rate)

    h_BTD = norm("attention_norm")(x_BTD)
    attended_BTD, kv = self.attention(
      h_BTD, h_BTD, sight, position=position,
      cache=cache and cache.attention, slot=slot,
    )  # fmt: skip
    if self.parallel:
      x_BTD += drop(attended_BTD + self.mlp(h_BTD))
    else:
      x_BTD += drop(attended_BTD)
    cross_kv = None
    if self.cross_attention is not None:
      attended_BTD, cross_kv = self.cross_attention(
        norm("cross_attention_norm")(x_BTD), source_BSD, cross_sight,
        position=NoPosition(), cache=cache and cache.cross_attention, slot=0,
      )  # fmt: skip
      x_BTD += drop(attended_BTD)
    if not self.parallel:
      x_BTD += drop(self.mlp(norm("mlp_norm")(x_BTD)))
    x_BTD = nn.with_logical_constraint(x_BTD, ("batch", "length", "embed"))
    return x_BTD, cache and LayerCache(kv, cross_kv)


class Stack(nn.Module):
  """Repeats a layer under one visibility rule.

  Attributes:
    layer: copied `num_layers` times.
    num_layers: L.
    rule: who sees whom in self-attention.
    position: position encoding, shared by all layers.
    final_norm: after the last layer, or None.
    scan: one compiled layer over stacked parameters [L, ...]: compiles in
      constant time and shards well, but runs slower on a CPU.
    remat: None, or a name in REMAT_POLICIES: what the backward recomputes.
    dropout_rate: share of the embeddings and of the output dropped in training.
  """

  layer: Layer
  num_layers: int
  rule: visibility.Rule
  position: NoPosition
  final_norm: nn.Module | None = None
  scan: bool = False
  remat: str | None = None
  dropout_rate: float = 0.0

  def __post_init__(self):
    checks.at_least_one(self, "num_layers")
    checks.dropout_rate(self)
    attention = self.layer.attention
    self.position.check(attention.num_heads, attention.head_dim)
    if self.remat is not None and self.remat not in REMAT_POLICIES:
      raise ValueError(
        f"unknown remat policy {self.remat!r}: use None or one of "
        f"{', '.join(REMAT_POLICIES)}"
      )
    if self.final_norm is self.layer.norm:
      self.final_norm = self.layer.norm.clone()
    super().__post_init__()

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    tokens: Tokens,
    *,
    source_BSD: jax.Array | None = None,
    source_tokens: Tokens | None = None,
    cache: StackCache | None = None,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, StackCache | None]:
    """Runs the layers.

    Args:
      x_BTD: embeddings.
      tokens: where the T tokens stand.
      source_BSD: encoder output for cross-attention; None where there is none
        or where the cache already holds its keys and values.
      source_tokens: where the source's tokens stand.
      cache: keys and values so far, or None to keep none.
      slot: the cache slot of the first of the T tokens.

    Returns:
      [B, T, D], and the cache with the T tokens written, if there was one.
    """
    cached_tokens = cache and _write_tokens(cache.tokens, tokens, slot)
    sight = self._sight(tokens, cached_tokens or tokens)
    cross_sight = None
    if source_tokens is not None:
      cross_mask = visibility.mask(visibility.Full(), tokens, source_tokens)
      cross_sight = Sight(tokens, source_tokens, cross_mask, None)

    def run(layer, x_BTD, layer_cache):
      return layer(
        x_BTD, layer_cache, source_BSD, sight, cross_sight, self.position, slot
      )

    if self.remat is not None:
      policy = REMAT_POLICIES[self.remat]
      run = nn.remat(run, policy=policy, prevent_cse=not self.scan)

    x_BTD = self.position.embed(x_BTD, tokens)
    x_BTD = dropout(self, x_BTD, self.dropout_rate)
    layer_caches = cache and cache.layers
    if self.scan:
      x_BTD, layer_caches = nn.scan(
        run,
        variable_axes={"params": 0},
        split_rngs={"params": True, "dropout": True},
        length=self.num_layers,
        metadata_params={nn.PARTITION_NAME: "layers"},
      )(self.layer.copy(name="layers"), x_BTD, layer_caches)
    else:
      written = []
      for i in range(self.num_layers):
        layer = self.layer.copy(name=f"layer_{i}")
        x_BTD, layer_cache = run(layer, x_BTD, cache and layer_caches[i])
        written.append(layer_cache)
      layer_caches = tuple(written)
    if self.final_norm is not None:
      x_BTD = self.final_norm(x_BTD)
    x_BTD = dropout(self, x_BTD, self.dropout_rate)
    return x_BTD, cache and StackCache(layer_caches, cached_tokens)

  def _sight(self, query: Tokens, key: Tokens) -> Sight:
    mask_BTS = visibility.mask(self.rule, query, key)
    return Sight(query, key, mask_BTS, self.position.bias(query, key))

  def empty_cache(
    self, batch: int, length: int, *, source_length: int = 0, dtype
  ) -> StackCache:
    """Returns a cache of `length` empty slots a row."""

    def kv(attention, slots):
      num_kv_heads = attention.num_kv_heads or attention.num_heads
      shape = (batch, num_kv_heads, slots, attention.head_dim)
      return KVCache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))

    cross = self.layer.cross_attention
    layer = LayerCache(
      kv(self.layer.attention, length), cross and kv(cross, source_length)
    )
    layers = (layer,) * self.num_layers
    if self.scan:
      layers = jax.tree.map(lambda *x: jnp.stack(x), *layers)
    zeros = jnp.zeros((batch, length), jnp.int32)
    return StackCache(layers, Tokens(zeros, zeros, zeros, zeros.astype(bool)))


def _write_tokens(cached: Tokens, new: Tokens, slot: jax.Array) -> Tokens:
  def write(old_BS, new_BT):
    new_BT = jnp.broadcast_to(new_BT, (old_BS.shape[0], new_BT.shape[1]))
    return jax.lax.dynamic_update_slice_in_dim(old_BS, new_BT, slot, axis=1)

  return jax.tree.map(write, cached, new)
