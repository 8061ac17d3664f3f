"""Tiny models and batches, built by hand: what the tests try things on.

Sizes are odd on purpose: heads * head_dim differs from the width, and no two
dims are equal, so that a swapped axis cannot pass.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite.losses.cross_entropy import CrossEntropy
from t5x_lite.model import Model
from t5x_lite.nn.attention import Attention, CoreAttention
from t5x_lite.nn.attention_rules import Causal, Full, PrefixCausal
from t5x_lite.nn.feedforward import Gated
from t5x_lite.nn.heads import LMHead
from t5x_lite.nn.norms import LayerNorm, RMSNorm
from t5x_lite.nn.positions import Rope, T5Bias
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer

WIDTH, HEADS, HEAD_DIM, HIDDEN, LAYERS, VOCAB = 20, 4, 6, 28, 2, 37
PLAIN = CrossEntropy()


def _t5_stack(*, encoder: bool, cross: bool, dropout=0.0, **settings) -> Stack:
  attention = Attention(
    num_heads=HEADS,
    head_dim=HEAD_DIM,
    core=CoreAttention(scale_at_init=True, dropout_rate=dropout),
  )
  layer = Layer(
    attention=attention,
    cross_attention=attention if cross else None,
    mlp=Gated(hidden=HIDDEN, activation="gelu_tanh", dropout_rate=dropout),
    norm=RMSNorm(),
    dropout_rate=dropout,
  )
  position = T5Bias(
    num_heads=HEADS, bidirectional=encoder, num_buckets=8, max_distance=12
  )
  settings = {
    "num_layers": LAYERS,
    "rule": Full() if encoder else Causal(),
    "position": position,
    "final_norm": RMSNorm(),
    "dropout_rate": dropout,
    **settings,
  }
  return Stack(layer=layer, **settings)


def t5(*, dropout=0.0, loss=PLAIN, dtype="float32", **stack) -> Model:
  """Builds an encoder-decoder after T5 v1.1."""
  transformer = Transformer(
    width=WIDTH,
    vocab_size=VOCAB,
    encoder=_t5_stack(encoder=True, cross=False, dropout=dropout, **stack),
    decoder=_t5_stack(encoder=False, cross=True, dropout=dropout, **stack),
    dtype=dtype,
  )
  return Model(transformer=transformer, loss=loss)


def encoder(*, loss=PLAIN, dtype="float32", **stack) -> Model:
  """Builds an encoder-only model: T5's encoder under a tied head."""
  transformer = Transformer(
    width=WIDTH,
    vocab_size=VOCAB,
    encoder=_t5_stack(encoder=True, cross=False, **stack),
    lm_head=LMHead(tied=True, scale=True),
    dtype=dtype,
  )
  return Model(transformer=transformer, loss=loss)


def palm(*, dropout=0.0, loss=PLAIN, dtype="float32", **stack) -> Model:
  """Builds a causal decoder after PaLM."""
  layer = Layer(
    attention=Attention(
      num_heads=HEADS,
      num_kv_heads=1,
      head_dim=HEAD_DIM,
      core=CoreAttention(dropout_rate=dropout),
    ),
    mlp=Gated(hidden=HIDDEN, activation="silu", dropout_rate=dropout),
    norm=LayerNorm(epsilon=1e-6, use_bias=False),
    parallel=True,
    dropout_rate=dropout,
  )
  settings = {
    "num_layers": LAYERS,
    "rule": Causal(),
    "position": Rope(),
    "final_norm": LayerNorm(epsilon=1e-6, use_bias=False),
    "dropout_rate": dropout,
    **stack,
  }
  transformer = Transformer(
    width=WIDTH,
    vocab_size=VOCAB,
    decoder=Stack(layer=layer, **settings),
    lm_head=LMHead(tied=True, scale=True),
    dtype=dtype,
  )
  return Model(transformer=transformer, loss=loss)


def prefix_lm(**settings) -> Model:
  """Builds the same stack as `palm` under the prefix rule."""
  return palm(rule=PrefixCausal(), **settings)


def llama(*, num_kv_heads=2, loss=PLAIN, dtype="float32", **stack) -> Model:
  """Builds a causal decoder after LLaMA, with grouped queries."""
  layer = Layer(
    attention=Attention(
      num_heads=HEADS, num_kv_heads=num_kv_heads, head_dim=HEAD_DIM
    ),
    mlp=Gated(hidden=HIDDEN, activation="silu"),
    norm=RMSNorm(),
  )
  settings = {
    "num_layers": LAYERS,
    "rule": Causal(),
    "position": Rope(),
    "final_norm": RMSNorm(),
    **stack,
  }
  transformer = Transformer(
    width=WIDTH,
    vocab_size=VOCAB,
    decoder=Stack(layer=layer, **settings),
    dtype=dtype,
  )
  return Model(transformer=transformer, loss=loss)


ALL = {
  "t5": t5, "encoder": encoder, "palm": palm, "prefix_lm": prefix_lm,
  "llama": llama,
}  # fmt: skip
DECODERS = {"palm": palm, "prefix_lm": prefix_lm, "llama": llama}


def jit(function):
  """Compiles twice as fast, for code that runs once and need not be fast."""
  options = {"xla_backend_optimization_level": 0}
  return jax.jit(function, compiler_options=options)


def replace_stacks(model: Model, **settings) -> Model:
  """Returns the model with other settings of its stacks, e.g. scan=True."""
  stacks = {
    side: stack.clone(**settings)
    for side in ("encoder", "decoder")
    if (stack := getattr(model.transformer, side)) is not None
  }
  transformer = model.transformer.clone(**stacks)
  return dataclasses.replace(model, transformer=transformer)


def with_vocab(model: Model, size: int) -> Model:
  """Returns the model with a vocabulary of this size."""
  transformer = model.transformer.clone(vocab_size=size)
  return dataclasses.replace(model, transformer=transformer)


def batch(
  model: Model,
  *,
  inputs=(7, 3, 5),
  targets=(4, 6, 2),
  input_length=8,
  target_length=7,
  seed=0,
) -> dict[str, np.ndarray]:
  """Draws a batch of unpacked rows with these many inputs and targets.

  A decoder-only row is one text of `inputs` and `targets`, of which only the
  targets bear loss; an encoder-only row has the targets' places among inputs.
  """
  rng = np.random.default_rng(seed)
  rows = [
    (rng.integers(1, VOCAB, i), rng.integers(1, VOCAB, t))
    for i, t in zip(inputs, targets, strict=True)
  ]
  out = {}

  def put(name, values, length):
    out[name] = np.array(
      [np.pad(v, (0, length - len(v))) for v in values], np.int32
    )

  def put_side(side, tokens, length):
    put(f"{side}_input_tokens", tokens, length)
    put(f"{side}_segment_ids", [np.ones(len(t), int) for t in tokens], length)
    put(f"{side}_positions", [np.arange(len(t)) for t in tokens], length)

  if model.row_format.name == "encoder":
    put_side("encoder", [i for i, _ in rows], input_length)
    targets = [rng.integers(1, VOCAB, len(i)) for i, _ in rows]
    put("encoder_target_tokens", targets, input_length)
    weights = [rng.integers(0, 2, len(i)) for i, _ in rows]
    put("encoder_loss_weights", weights, input_length)
    return out
  length = target_length
  if model.row_format.name == "encoder_decoder":
    put_side("encoder", [i for i, _ in rows], input_length)
    texts = [t for _, t in rows]
    weights = [np.ones(len(t)) for t in texts]
  else:
    length += input_length
    texts = [np.concatenate(row) for row in rows]
    weights = [np.repeat([0, 1], [len(i), len(t)]) for i, t in rows]
    prompt = [np.ones(len(i) + 1) for i, _ in rows]
    put("decoder_causal_attention", prompt, length)
  put("decoder_target_tokens", texts, length)
  put("decoder_loss_weights", weights, length)
  put_side("decoder", [np.append(0, t[:-1]) for t in texts], length)
  return out


def packed(batch: dict, *, padding: int = 2) -> dict[str, np.ndarray]:
  """Packs all rows of a batch into one, with some padding at its end."""
  out = {}
  for side in ("encoder", "decoder"):
    if f"{side}_segment_ids" not in batch:
      continue
    real = batch[f"{side}_segment_ids"] > 0
    for name in [n for n in batch if n.startswith(side)]:
      values = batch[name]
      if name.endswith("segment_ids"):
        values = np.broadcast_to(1 + np.arange(len(real))[:, None], real.shape)
      out[name] = np.pad(values[real], (0, padding))[None]
  return out


def stacked(params: dict) -> dict:
  """Stacks layer_0, layer_1... into "layers", as scan=True holds them."""
  if "layer_0" not in params:
    return {
      k: stacked(v) if isinstance(v, dict) else v for k, v in params.items()
    }
  layers = [params[f"layer_{i}"] for i in range(LAYERS)]
  rest = {k: v for k, v in params.items() if not k.startswith("layer_")}
  layer = jax.tree.map(lambda *x: jnp.stack(x), *layers)
  return {**rest, "layers": {"layer_0": layer}}


def assert_trees_close(actual, expected, *, rtol: float) -> float:
  """Compares leaf by leaf; returns the largest relative difference.

  Relative to the leaf's largest value, or to a hundredth of the largest leaf's
  if that is more: of biases of keys, say, which move no attention, all of the
  gradient is rounding.
  """
  sizes = jax.tree.map(lambda leaf: np.abs(leaf).max(), expected)
  least = 1e-2 * max(jax.tree.leaves(sizes))

  def difference(path, a, e, size):
    scale = max(size, least)
    np.testing.assert_allclose(
      a, e, rtol=0, atol=rtol * scale, err_msg=jax.tree_util.keystr(path)
    )
    return float(np.abs(a - e).max() / scale)

  differences = jax.tree.map_with_path(difference, actual, expected, sizes)
  return max(jax.tree.leaves(differences))


def random_params(model: Model, seed: int = 0) -> dict:
  """Draws parameters of which none, norms included, has a special value."""
  rng = np.random.default_rng(seed)

  def draw(path, p):
    mean = 1.0 if path[-1].key == "scale" else 0.0
    return np.float32(mean + 0.3 * rng.normal(size=p.shape))

  return jax.tree.map_with_path(draw, model.abstract())


def side(model: Model) -> str:
  """Names the side whose targets bear loss."""
  return "encoder" if model.row_format.name == "encoder" else "decoder"
