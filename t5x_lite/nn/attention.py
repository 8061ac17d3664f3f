"""Multi-head, grouped-query and multi-query attention, with a KV cache."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from t5x_lite import checks
from t5x_lite.nn import attention_rules, contexts
from t5x_lite.nn.attention_rules import AttentionRule
from t5x_lite.nn.caches import Int8KVCache, KVCache, empty_kv
from t5x_lite.nn.dropout import dropout
from t5x_lite.nn.kernels import table
from t5x_lite.nn.kernels.bias import as_array
from t5x_lite.nn.linear import Dense, FanIn, Init
from t5x_lite.nn.parameters import parameter
from t5x_lite.nn.positions import PositionEncoding
from t5x_lite.nn.transformer_xl_bias import TransformerXLBias


@dataclasses.dataclass(frozen=True)
class Projections:
  """Projects activations to queries, keys and values, and heads back.

  Attributes:
    use_bias: whether queries, keys and values have biases.
    out_bias: whether the projection back has one; None means as `use_bias`.
    kernel_init: initialises the projections.
    value_init: overrides it for the projection to values.
    out_init: overrides it for the projection back.
  """

  use_bias: bool = False
  out_bias: bool | None = None
  kernel_init: Init = FanIn()
  value_init: Init | None = None
  out_init: Init | None = None

  def __post_init__(self):
    checks.fields(self)

  @property
  def has_out_bias(self) -> bool:
    """Whether the projection back has a bias."""
    return self.use_bias if self.out_bias is None else self.out_bias

  def to_heads(
    self,
    x_BTD: jax.Array,
    axis: str,
    shape: tuple[int, int],
    *,
    name: str,
    kernel_init: Init | None = None,
  ) -> jax.Array:
    """Returns [B, T, *shape]; to be called in a module's compact method.

    Args:
      x_BTD: activations.
      axis: the logical axis of the heads, "heads" or "kv_heads".
      shape: how many heads, and their head_dim.
      name: of the parameters.
      kernel_init: replaces that of the projections.
    """
    return Dense(
      (x_BTD.shape[-1],),
      shape,
      ("embed", axis, "head_dim"),
      kernel_init=kernel_init or self.kernel_init,
      use_bias=self.use_bias,
      name=name,
    )(x_BTD)

  def from_heads(self, x_BTNH: jax.Array, width: int) -> jax.Array:
    """Returns [B, T, width]; to be called in a module's compact method."""
    return Dense(
      x_BTNH.shape[-2:],
      (width,),
      ("heads", "head_dim", "embed"),
      use_bias=self.has_out_bias,
      kernel_init=self.out_init or self.kernel_init,
      name="out",
    )(x_BTNH)


@dataclasses.dataclass(frozen=True)
class CoreAttention:
  """Mixes values by the softmax of the scaled products of queries and keys.

  Attributes:
    scale: factor on the logits; None means 1/sqrt(head_dim).
    scale_at_init: initialises the query kernel by FanIn(1 / head_dim) instead
      of dividing the logits by sqrt(head_dim) (T5).
    soft_cap: c in c * tanh(logits / c), or None.
    sink: whether each head learns a logit for a key without value, which takes
      up attention that no other key should have.
    dropout_rate: share of the attention probabilities dropped in training.
    kernel: computes it, a name in nn/kernels/table.py; "auto" takes what suits
      the platform, the attention rule and the shapes.
  """

  scale: float | None = None
  scale_at_init: bool = False
  soft_cap: checks.Positive | None = None
  sink: bool = False
  dropout_rate: checks.Share = 0.0
  kernel: str = table.AUTO

  def __post_init__(self):
    checks.fields(self)
    checks.one_of(self, "kernel", (table.AUTO, *table.KERNELS))
    for name in ("dropout_rate", "soft_cap", "sink"):
      self._check_kernel_takes(name)
    if self.scale is not None and self.scale_at_init:
      raise ValueError(
        f"scale ({self.scale}) and scale_at_init=True are two ways to scale "
        "the logits: choose one"
      )

  def _check_kernel_takes(self, name):
    value, feature = getattr(self, name), name.removesuffix("_rate")
    taking = [k for k, row in table.KERNELS.items() if getattr(row, feature)]
    if value and self.kernel not in (table.AUTO, *taking):
      raise ValueError(
        f"{name} ({value}) needs kernel={table.AUTO!r} or one of "
        f"{', '.join(taking)}: the {self.kernel} kernel does not support it"
      )

  def logits_scale(self, head_dim: int) -> float:
    """Returns the factor on the logits."""
    return 1.0 if self.scale_at_init else self.scale or head_dim**-0.5

  def query_init(self, head_dim: int) -> Init | None:
    """Returns the query kernel's initialiser, or None for the usual one."""
    return FanIn(1.0 / head_dim) if self.scale_at_init else None

  def attend(
    self,
    module: nn.Module,
    q_BNTH: jax.Array,
    kv: KVCache | Int8KVCache,
    context: contexts.AttentionContext,
  ) -> jax.Array:
    """Returns [B, N, T, H], in the dtype of the queries.

    Args:
      module: owns the sink, has the random key of dropout, and sows the
        attention probabilities.
      q_BNTH: queries.
      kv: keys and values.
      context: which keys a query sees, and the bias on the scaled logits.
    """
    sink_N, drop = None, None
    if self.sink:
      shape, zeros = (q_BNTH.shape[1],), nn.initializers.zeros
      sink_N = parameter(module, "sink", ("heads",), shape, zeros)
    if self.dropout_rate and module.has_rng("dropout"):

      def drop(probs):
        return dropout(module, probs, self.dropout_rate)

    kv = kv.read()
    kernel = table.KERNELS[context.kernel].run
    if drop is not None:  # Only einsum takes it.
      kernel = functools.partial(kernel, dropout_mask=drop)
    attend_by = functools.partial(
      kernel,
      q_BNTH,
      kv.keys.astype(q_BNTH.dtype),
      visibility=context.visibility,
      bias=context.bias,
      scale=self.logits_scale(q_BNTH.shape[-1]),
      soft_cap=self.soft_cap,
      sink_N=sink_N,
    )
    if module.is_mutable_collection("probes"):
      module.sow("probes", "attention", _attention_map(attend_by, kv))
    return attend_by(kv.values.astype(q_BNTH.dtype))


class Attention(nn.Module):
  """Projects to heads, attends, and projects back.

  Attributes:
    num_heads: N.
    head_dim: H.
    num_kv_heads: K, a divisor of N: 1 is multi-query; None means N.
    projections: to queries, keys and values, and back.
    core: how queries attend to keys and values.
    qk_norm: norm of each head's queries and keys before they are rotated (Henry
      et al. 2020, arXiv:2010.04245; Dehghani et al. 2023, arXiv:2302.05442).
    distances: bias by relative distance with this layer's own weights, or None;
      only for self-attention.
  """

  num_heads: checks.Count
  head_dim: checks.Count
  num_kv_heads: checks.Count | None = None
  projections: Projections = Projections()
  core: CoreAttention = CoreAttention()
  qk_norm: nn.Module | None = None
  distances: TransformerXLBias | None = None

  def __post_init__(self):
    checks.fields(self)
    if self.num_kv_heads and self.num_heads % self.num_kv_heads:
      raise ValueError(
        f"num_heads ({self.num_heads}) must be divisible by num_kv_heads "
        f"({self.num_kv_heads})"
      )
    super().__post_init__()

  @property
  def kv_heads(self) -> int:
    """Returns K, which is N where num_kv_heads is None."""
    return self.num_kv_heads or self.num_heads

  def kernel(
    self,
    rule: AttentionRule,
    bias_kind: str | None,
    *,
    lengths: tuple[int, int],
    dtype: str,
    cached: bool,
    training: bool,
    platform: str | None = None,
  ) -> str:
    """Returns the kernel that computes the attention.

    Args:
      rule: the attention rule.
      bias_kind: of the position encoding (PositionEncoding.bias_kind).
      lengths: of queries and keys.
      dtype: of the activations.
      cached: whether the keys are those of a cache.
      training: whether there is dropout.
      platform: "cpu", "gpu" or "tpu"; None means that of the mesh.

    Raises:
      ValueError: the kernel that is set does not take these.
    """
    case = table.Case(
      query_length=lengths[0],
      key_length=lengths[1],
      head_dim=self.head_dim,
      dtype=dtype,
      pattern=attention_rules.pattern(rule),
      bias="array" if self.distances is not None else bias_kind,
      soft_cap=self.core.soft_cap is not None,
      sink=self.core.sink,
      dropout=training and self.core.dropout_rate > 0,
      cached=cached,
    )
    return table.choose(self.core.kernel, case, platform)

  @nn.compact
  def __call__(
    self,
    x_BTD: jax.Array,
    source_BSD: jax.Array | None,
    context: contexts.AttentionContext,
    *,
    position: PositionEncoding,
    cache: KVCache | Int8KVCache | None = None,
    slot: jax.Array | None = None,
  ) -> tuple[jax.Array, KVCache | Int8KVCache]:
    """Attends from x to the source.

    Args:
      x_BTD: the queries' activations.
      source_BSD: the keys' and values': x itself, or an encoder's output; None
        reads the cache alone (cross-attention while decoding).
      context: mask and bias over the keys: those of the cache where there is
        one, of the source otherwise.
      position: rotates queries and keys.
      cache: keys and values to write into at `slot`, and then to read.
      slot: where the source's first token goes in the cache.

    Returns:
      [B, T, D], and the keys and values that were read.
    """
    query_init = self.core.query_init(self.head_dim)
    q_BNTH = position.rotate(
      self._heads("query", x_BTD, self.num_heads, query_init), context.query
    )
    kv = cache
    if source_BSD is not None:
      kv = self._keys_and_values(source_BSD, context, position, cache, slot)
    if self.distances is not None:
      q_BNTH, distance_bias_BNTS = self.distances(
        q_BNTH, context.query, context.key, x_BTD.shape[-1]
      )
      bias_BNTS = as_array(context.bias, context.query.index, context.key.index)
      bias_BNTS = 0 if bias_BNTS is None else bias_BNTS
      scale = self.core.logits_scale(self.head_dim)
      context = context._replace(bias=scale * distance_bias_BNTS + bias_BNTS)
    out_BNTH = self.core.attend(self, q_BNTH, kv, context)
    out_BTNH = out_BNTH.swapaxes(1, 2)
    return self.projections.from_heads(out_BTNH, x_BTD.shape[-1]), kv

  def empty_cache(
    self, batch: int, length: int, dtype
  ) -> KVCache | Int8KVCache:
    """Returns a cache of `length` empty slots a row."""
    return empty_kv(batch, self.kv_heads, length, self.head_dim, dtype)

  def _heads(self, name, x_BTD, num_heads, init=None):
    heads = "heads" if name == "query" else "kv_heads"
    x_BTNH = self.projections.to_heads(
      x_BTD, heads, (num_heads, self.head_dim), name=name, kernel_init=init
    )
    if self.qk_norm is not None and name != "value":
      norm = self.qk_norm.copy(name=f"{name}_norm", axis="head_dim")
      x_BTNH = norm(x_BTNH)
    length = "length" if name == "query" else "kv_length"
    axes = ("batch", length, heads, "head_dim")
    return nn.with_logical_constraint(x_BTNH, axes).swapaxes(1, 2)

  def _keys_and_values(self, source_BSD, context, position, cache, slot):
    num_kv_heads = self.kv_heads
    # Cached keys are already rotated. With a cache of self-attention only the
    # queries' own tokens are new.
    tokens = context.key if cache is None else context.query
    new = KVCache(
      keys=position.rotate(
        self._heads("key", source_BSD, num_kv_heads), tokens
      ),
      values=self._heads(
        "value", source_BSD, num_kv_heads, self.projections.value_init
      ),
    )
    return new if cache is None else cache.write(new, slot)


def _attention_map(attend_by, kv: KVCache) -> jax.Array:
  """Returns the attention probabilities [B, N, T, S], by one-hot values."""
  slots = kv.keys.shape[2]
  one_hot = jnp.broadcast_to(
    jnp.eye(slots, dtype=jnp.float32), (*kv.keys.shape[:2], slots, slots)
  )
  return attend_by(one_hot)
