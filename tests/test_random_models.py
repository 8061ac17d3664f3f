"""The same properties on models drawn at random from the space."""

import jax
import numpy as np
import pytest

from t5x_lite.model import Model
from t5x_lite.nn.attention import Attention
from t5x_lite.nn.feedforward import ACTIVATIONS, MLP, Gated
from t5x_lite.nn.norms import LayerNorm, RMSNorm
from t5x_lite.nn.positions import Learned, NoPosition, Rope, T5Bias
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer
from t5x_lite.nn.visibility import Causal, Full, PrefixCausal, Window
from tests import tiny


def random_model(seed: int) -> Model:
  rng = np.random.default_rng(seed)

  def one_of(*choices):
    return choices[rng.integers(len(choices))]

  def flag():
    return one_of(False, True)

  num_heads, bias = 4, flag()

  def stack(rule, cross):
    def attention():
      return Attention(
        num_heads=num_heads, num_kv_heads=one_of(None, 1, 2), head_dim=6,
        use_bias=bias, scale_at_init=flag(),
      )  # fmt: skip

    norm = one_of(RMSNorm(), LayerNorm(), LayerNorm(use_bias=False))
    return Stack(
      layer=Layer(
        attention=attention(),
        cross_attention=attention() if cross else None,
        mlp=one_of(MLP, Gated)(
          hidden=14, activation=one_of(*ACTIVATIONS), use_bias=bias
        ),
        norm=norm,
        parallel=not cross and flag(),
      ),
      num_layers=one_of(1, 2, 3),
      rule=rule,
      position=one_of(
        NoPosition(), Rope(base=one_of(100.0, 1e6)), Learned(max_length=40),
        T5Bias(num_heads=num_heads, bidirectional=rule != Causal()),
      ),
      final_norm=one_of(None, norm),
      scan=flag(),
      remat=one_of(None, "full", "dots"),
    )  # fmt: skip

  cross = flag()
  transformer = Transformer(
    width=one_of(10, 24),
    vocab_size=tiny.VOCAB,
    encoder=stack(Full(), False) if cross else None,
    decoder=stack(
      one_of(Causal(), Window(2)) if cross
      else one_of(Causal(), PrefixCausal(), Window(4)),
      cross,
    ),
    tie_embeddings=flag(),
    scale_logits=flag(),
  )  # fmt: skip
  return Model(transformer=transformer)


@pytest.mark.parametrize("seed", range(3))
def test_losses_pack_and_logits_cache(seed):
  model, inputs, steps = random_model(seed), (7, 0, 5), 6
  params = tiny.random_params(model, seed)
  batch = tiny.batch(model, inputs=inputs, targets=(steps,) * 3, seed=seed)

  loss = tiny.jit(lambda batch: model.loss_and_metrics(params, batch)[0])
  np.testing.assert_allclose(loss(tiny.packed(batch)), loss(batch), rtol=1e-5)

  starts = np.array(inputs) * (model.architecture != "encoder_decoder")
  rows, expected = np.arange(3), tiny.jit(model.logits)(params, batch)
  atol = 1e-5 * np.abs(expected).max()  # Squares make some logits large.
  out, state = tiny.jit(
    lambda: model.prefill(params, batch, max_new_tokens=steps)
  )()
  decode_step = tiny.jit(model.decode_step)
  for step in range(steps):
    np.testing.assert_allclose(
      out, expected[rows, starts + step], rtol=1e-4, atol=atol
    )
    if step < steps - 1:
      tokens = batch["decoder_input_tokens"][rows, starts + step + 1]
      out, state = decode_step(params, state, jax.numpy.asarray(tokens))


@pytest.mark.parametrize("seed", range(4, 5))
def test_gradients_are_finite_and_reach_every_parameter(seed):
  model = random_model(seed)
  params, batch = tiny.random_params(model, seed), tiny.batch(model)

  def loss(params):
    return model.loss_and_metrics(params, batch)[0]

  def check(path, g):
    assert np.isfinite(g).all() and np.any(g), jax.tree_util.keystr(path)

  jax.tree.map_with_path(check, tiny.jit(jax.grad(loss))(params))
