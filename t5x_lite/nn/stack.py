"""Layer and Stack: the body of every architecture.

An encoder, a causal decoder, a prefix-LM and a decoder that reads an encoder
are the same stack under different attention rules (nn/attention_rules.py).
"""

import dataclasses
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn import pooling, remat
from t5x_lite.nn.attention import Attention
from t5x_lite.nn.attention_rules import AttentionRule, TokenInfo
from t5x_lite.nn.caches import (
  LayerCache,
  Ring,
  SharedKV,
  StackCache,
  empty_tokens,
  write_tokens,
)
from t5x_lite.nn.contexts import LayerContext, layer_contexts
from t5x_lite.nn.dropout import dropout
from t5x_lite.nn.feedforward import FeedForward
from t5x_lite.nn.positions import NoPosition, PositionEncoding

PLACEMENTS = ("pre", "post", "sandwich")


class Layer(nn.Module):
  """Runs self-attention, cross-attention to a source if any, feed-forward.

  A branch f is an attention or the feed-forward. A serial block adds its
  branches one after the other; a parallel block adds attention and feed-forward
  of the same x (GPT-J; PaLM, arXiv:2204.02311, section 2). norm_placement:

    pre       x + f(norm(x))                 T5, GPT-2 and most since
    post      norm(a x + f(x))               Transformer, BERT; a > 1: DeepNorm
    sandwich  x + norm(f(norm(x)))           CogView, Gemma 2

  Attributes:
    attention: self-attention.
    mlp: feed-forward.
    norm: copied for each norm of the layer.
    cross_attention: attention to the source, or None.
    parallel: whether attention and feed-forward read the same x.
    parallel_norms: norms of a parallel block: 1 (GPT-J, PaLM) or 2 (GPT-NeoX).
    norm_placement: "pre", "post" or "sandwich".
    residual_scale: a, DeepNorm's alpha (Wang et al. 2022, arXiv:2203.00555);
      only for "post".
    rule: the attention rule of self-attention; None means the stack's.
    position: an encoding of this layer alone, with its own parameters; None
      means the stack's. In a Period, some layers may have NoPosition (Yang et
      al. 2025, arXiv:2501.18795) or another Rope.base (Gemma 3,
      arXiv:2503.19786).
    dropout_rate: dropout of each branch's output.
  """

  attention: Attention
  mlp: FeedForward
  norm: nn.Module
  cross_attention: Attention | None = None
  parallel: bool = False
  parallel_norms: int = 1
  norm_placement: str = "pre"
  residual_scale: checks.Positive = 1.0
  rule: AttentionRule | None = None
  position: PositionEncoding | None = None
  dropout_rate: checks.Share = 0.0

  def __post_init__(self):
    checks.fields(self)
    if self.position is not None and self.position.embeds:
      raise ValueError(
        f"Layer.position ({type(self.position).__name__}) is added to the "
        "embeddings, before the first layer: set it as Stack.position"
      )
    checks.one_of(self, "norm_placement", PLACEMENTS)
    if self.residual_scale != 1 and self.norm_placement != "post":
      raise ValueError(
        f"residual_scale ({self.residual_scale}) needs norm_placement='post', "
        f"not {self.norm_placement!r}"
      )
    if self.parallel and self.norm_placement != "pre":
      raise ValueError(
        f"parallel=True needs norm_placement='pre', not {self.norm_placement!r}"
      )
    checks.one_of(self, "parallel_norms", (1, 2))
    if self.parallel and self.cross_attention:
      raise ValueError(
        "parallel=True has no place for cross_attention: use parallel=False "
        "in the decoder of an encoder-decoder"
      )
    if self.cross_attention and self.cross_attention.distances is not None:
      raise ValueError(
        "cross_attention relates two texts and has no distances: set "
        "Attention.distances in self-attention alone"
      )
    if self.cross_attention is self.attention:
      # One instance in two places would silently share its parameters.
      self.cross_attention = self.attention.clone()
    super().__post_init__()

  def check(self, rule: AttentionRule, position: PositionEncoding):
    """Raises ValueError if the layer does not fit a stack of these."""
    position = self.position or position
    position.check(self.attention.num_heads, self.attention.head_dim)
    self.mlp.check(self.rule or rule)

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    cache: LayerCache | None,
    context: LayerContext,
    slot: jax.Array | None,
  ) -> tuple[jax.Array, LayerCache | None]:
    """Runs one block; see Stack.__call__."""
    caches = {}  # Filled by the branches below.
    position, attention = self.position or context.position, context.attention
    if self.position is not None:
      bias = position.bias(attention.query, attention.key)
      attention = attention.with_bias(bias)

    def attend(h_BTD):
      source_BSD = h_BTD if context.shared_kv is None else None
      h_BTD, caches["attention"] = self.attention(
        h_BTD, source_BSD, attention, position=position,
        cache=context.shared_kv or (cache and cache.attention), slot=slot,
      )  # fmt: skip
      return h_BTD

    def attend_across(h_BTD):
      h_BTD, caches["cross_attention"] = self.cross_attention(
        h_BTD, context.source_BSD, context.cross_attention,
        position=NoPosition(), cache=cache and cache.cross_attention, slot=0,
      )  # fmt: skip
      return h_BTD

    def feed_forward(h_BTD):
      return self.mlp(h_BTD, attention.query)

    if self.parallel:
      x_BTD = self._side_by_side(x_BTD, attend, feed_forward)
    else:
      x_BTD = self._add("attention", x_BTD, attend)
      # Under share_encoder, the encoder runs these layers without a source.
      if self.cross_attention and context.cross_attention:
        x_BTD = self._add("cross_attention", x_BTD, attend_across)
      x_BTD = self._add("mlp", x_BTD, feed_forward)
    x_BTD = nn.with_logical_constraint(x_BTD, ("batch", "length", "embed"))
    self.sow("probes", "output", x_BTD)
    if cache is None:
      return x_BTD, None
    kept = caches["attention"] if context.shared_kv is None else None
    return x_BTD, LayerCache(kept, caches.get("cross_attention"))

  def _side_by_side(self, x_BTD, attend, feed_forward):
    h_BTD = self._norm("attention_norm", x_BTD)
    attended_BTD = attend(h_BTD)
    if self.parallel_norms == 2:
      h_BTD = self._norm("mlp_norm", x_BTD)
    return x_BTD + self._drop(attended_BTD + feed_forward(h_BTD))

  def _add(self, name, x_BTD, branch):
    """Adds a branch to x, with norms where norm_placement puts them."""
    if self.norm_placement == "post":
      x_BTD = self.residual_scale * x_BTD + self._drop(branch(x_BTD))
      return self._norm(f"{name}_norm", x_BTD)
    y_BTD = branch(self._norm(f"{name}_norm", x_BTD))
    if self.norm_placement == "sandwich":
      y_BTD = self._norm(f"{name}_post_norm", y_BTD)
    return x_BTD + self._drop(y_BTD)

  def _norm(self, name, x_BTD):
    return self.norm.copy(name=name)(x_BTD)

  def _drop(self, y_BTD):
    return dropout(self, y_BTD, self.dropout_rate)


@dataclasses.dataclass(frozen=True)
class Period:
  """Different layers, which a stack repeats as a unit.

  Not a tuple: Linen names the layers in a tuple, but the stack must name them.
  """

  layers: Sequence[Layer]

  def __post_init__(self):
    checks.fields(self)
    if not self.layers:
      raise ValueError("a Period needs at least one layer")
    # gin gives a list, which has no hash, and jit looks models up by hash.
    object.__setattr__(self, "layers", tuple(self.layers))


class _ScannedPeriod(nn.Module):
  """Runs one period of a scanned stack."""

  period: Period

  @nn.compact
  def __call__(self, x_BTD, caches, run):
    written = []
    for i, layer in enumerate(self.period.layers):
      layer = layer.copy(name=f"layer_{i}")
      x_BTD, cache = run(layer, x_BTD, caches and caches[i])
      written.append(cache)
    return x_BTD, caches and tuple(written)


class Stack(nn.Module):
  """Repeats a layer, or a period of several layers.

  Attributes:
    layer: copied `num_layers` times; or a Period of layers that differ: dense
      and banded attention (GPT-3), experts in every other layer (Switch).
    num_layers: L, a multiple of the period.
    rule: the attention rule of layers that have none of their own.
    position: is added to the embeddings, or rotates and biases in each layer
      without a position of its own; those layers share its parameters.
    input_norm: normalises the embeddings (BERT, BLOOM), or None.
    final_norm: normalises the output of the last layer, or None.
    pool: how many neighbouring tokens are averaged into one before the layers
      (nn/pooling.py); for encoders of rows that are not packed.
    scan: compiles one period and scans it over parameters [L / period, ...]:
      compile time does not grow with L; slower on a CPU.
    remat: what the backward pass computes again: None for nothing, or a policy
      of nn/remat.py, or "auto".
    dropout_rate: share of the embeddings dropped in training.
    output_dropout_rate: share of the output dropped in training (T5).
  """

  layer: Layer | Period
  num_layers: checks.Layers
  rule: AttentionRule
  position: PositionEncoding
  input_norm: nn.Module | None = None
  final_norm: nn.Module | None = None
  pool: checks.Count = 1
  scan: bool = False
  remat: str | None = None
  dropout_rate: checks.Share = 0.0
  output_dropout_rate: checks.Share = 0.0

  def __post_init__(self):
    checks.fields(self)
    if self.num_layers % len(self.period):
      raise ValueError(
        f"num_layers ({self.num_layers}) must be divisible by the period of "
        f"{len(self.period)} layers"
      )
    for layer in self.period:
      layer.check(self.rule, self.position)
    checks.one_of(self, "remat", (None, remat.AUTO, *remat.POLICIES))
    # One instance in two places would silently share its parameters.
    if self.final_norm is self.period[0].norm:
      self.final_norm = self.final_norm.clone()
    if self.input_norm in (self.final_norm, self.period[0].norm):
      self.input_norm = self.input_norm and self.input_norm.clone()
    super().__post_init__()

  @property
  def period(self) -> tuple[Layer, ...]:
    """Returns the layers that are repeated, usually one."""
    if isinstance(self.layer, Period):
      return tuple(self.layer.layers)
    return (self.layer,)

  @property
  def layers(self) -> tuple[Layer, ...]:
    """Returns all layers in order."""
    return self.period * (self.num_layers // len(self.period))

  @property
  def stacks(self) -> tuple["Stack", ...]:
    """Returns the stacks that run one after the other: this one."""
    return (self,)

  def map_stacks(self, change: Callable[["Stack"], "Stack"]) -> "Stack":
    """Returns a copy with each of the stacks changed."""
    return change(self)

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    tokens: TokenInfo,
    *,
    source_BSD: jax.Array | None = None,
    source_tokens: TokenInfo | None = None,
    cache: StackCache | None = None,
    slot: jax.Array | None = None,
    shared_kv: SharedKV | None = None,
    rule: AttentionRule | None = None,
  ) -> tuple[jax.Array, StackCache | None]:
    """Runs the layers.

    Args:
      x_BTD: embeddings.
      tokens: index, position and segment of each of the T tokens.
      source_BSD: encoder output for cross-attention; None without an encoder,
        or once the cache holds its keys and values.
      source_tokens: the same of the source's tokens; without them there is no
        cross-attention.
      cache: keys and values so far, or None to keep none.
      slot: the cache slot of the first of the T tokens.
      shared_kv: keys and values for all layers, made elsewhere (nn/yoco.py).
      rule: replaces the rules of all layers when the decoder also serves as
        the encoder.

    Returns:
      [B, T / pool, D], and the cache, if any, with the T tokens.
    """
    x_BTD = self.position.embed(x_BTD, tokens)
    if self.input_norm is not None:
      x_BTD = self.input_norm(x_BTD)
    x_BTD = dropout(self, x_BTD, self.dropout_rate)
    if self.pool > 1:
      x_BTD = pooling.pool(x_BTD, tokens, self.pool)
      tokens = pooling.pooled_tokens(tokens, self.pool)

    if cache and cache.ring:
      slot = cache.ring.slots(tokens)
    cached_tokens = cache and write_tokens(cache.tokens, tokens, slot)
    keys = shared_kv.tokens if shared_kv else (cached_tokens or tokens)
    context = layer_contexts(
      self, tokens, keys, dtype=x_BTD.dtype.name, rule=rule,
      source_BSD=source_BSD, source_tokens=source_tokens,
      cached=cache is not None, shared_kv=shared_kv,
    )  # fmt: skip

    def run(layer, x_BTD, layer_cache):
      return layer(x_BTD, layer_cache, context(layer), slot)

    if (name := remat.settled(self.remat, scan=self.scan)) is not None:
      policy = remat.POLICIES[name]
      run = nn.remat(run, policy=policy, prevent_cse=not self.scan)

    self.sow("probes", "input", x_BTD)
    x_BTD, layer_caches = self._run_all(run, x_BTD, cache and cache.layers)
    if self.final_norm is not None:
      x_BTD = self.final_norm(x_BTD)
    x_BTD = dropout(self, x_BTD, self.output_dropout_rate)
    if cache is not None:
      cache = StackCache(layer_caches, cached_tokens, cache.ring)
    return x_BTD, cache

  def _run_all(self, run, x_BTD, caches):
    """Runs all layers, scanned or one by one."""
    if self.scan:
      return nn.scan(
        lambda period, x_BTD, caches: period(x_BTD, caches, run),
        variable_axes={"params": 0, "losses": 0, "probes": 0},
        split_rngs={"params": True, "dropout": True},
        length=self.num_layers // len(self.period),
        metadata_params={nn.PARTITION_NAME: "layers"},
      )(_ScannedPeriod(Period(self.period), name="layers"), x_BTD, caches)
    written = []
    for i, layer in enumerate(self.layers):
      layer = layer.copy(name=f"layer_{i}")
      x_BTD, layer_cache = run(layer, x_BTD, caches and caches[i])
      written.append(layer_cache)
    return x_BTD, caches and tuple(written)

  def empty_cache(
    self, batch: int, length: int, *, source_length: int = 0, dtype,
    chunk: int | None = None,
  ) -> StackCache:  # fmt: skip
    """Returns a cache of `length` empty slots a row, or of a ring of fewer.

    A ring where all layers have windows and at most `chunk` tokens are
    appended at once; None for no ring.
    """
    rules = [layer.rule or self.rule for layer in self.period]
    ring = Ring.fit(rules, length, chunk)
    length = ring.length if ring else length

    def layer_cache(layer):
      cross = layer.cross_attention
      return LayerCache(
        layer.attention.empty_cache(batch, length, dtype),
        cross and cross.empty_cache(batch, source_length, dtype),
      )

    if self.scan:
      repeats = self.num_layers // len(self.period)
      layers = jax.tree.map(
        lambda x: jnp.stack([x] * repeats),
        tuple(layer_cache(layer) for layer in self.period),
      )
    else:
      layers = tuple(layer_cache(layer) for layer in self.layers)
    return StackCache(layers, empty_tokens(batch, length), ring)
