"""The same properties on models drawn at random from the space."""

import jax
import numpy as np
import pytest

from t5x_lite.devices.layout import Layout
from t5x_lite.model import Model
from t5x_lite.nn.attention import Attention, CoreAttention, Projections
from t5x_lite.nn.attention_rules import (
  And,
  Causal,
  Full,
  LocalWindow,
  Or,
  PrefixCausal,
  Sinks,
  Window,
)
from t5x_lite.nn.embedding import Embedding
from t5x_lite.nn.feedforward import ACTIVATIONS, MLP, Gated
from t5x_lite.nn.heads import HeadTransform, LMHead
from t5x_lite.nn.linear import FanIn, Normal, Xavier
from t5x_lite.nn.moe import MoE
from t5x_lite.nn.norms import LayerNorm, RMSNorm
from t5x_lite.nn.positions import (
  Alibi,
  Learned,
  NoPosition,
  Rope,
  Sinusoidal,
  T5Bias,
)
from t5x_lite.nn.rope_scaling import NTK, Linear, Llama3, Yarn
from t5x_lite.nn.stack import Layer, Period, Stack
from t5x_lite.nn.transformer import Transformer
from t5x_lite.nn.transformer_xl_bias import TransformerXLBias
from t5x_lite.nn.yoco import DecoderDecoder
from tests import tiny

HEADS, HEAD_DIM = 4, 6


def random_model(seed: int) -> Model:
  rng = np.random.default_rng(seed)

  def one_of(*choices):
    return choices[rng.integers(len(choices))]

  def flag():
    return one_of(False, True)

  bias = flag()

  def norm():
    return one_of(
      RMSNorm(), RMSNorm(zero_centred=True), LayerNorm(),
      LayerNorm(use_bias=False),
    )  # fmt: skip

  def attention(num_kv_heads=None, distances=None):
    by_init = flag()
    return Attention(
      num_heads=HEADS,
      num_kv_heads=num_kv_heads or one_of(None, 1, 2),
      head_dim=HEAD_DIM,
      projections=Projections(
        use_bias=bias,
        out_bias=one_of(None, False, True),
        kernel_init=one_of(FanIn(), Normal(), Xavier()),
      ),
      core=CoreAttention(
        scale_at_init=by_init,
        scale=None if by_init else one_of(None, 0.3),
        soft_cap=one_of(None, 5.0),
        sink=flag(),
      ),
      qk_norm=one_of(None, RMSNorm(), LayerNorm()),
      distances=distances,
    )

  def mlp():
    plain = one_of(MLP, Gated)(
      hidden=14, activation=one_of(*ACTIVATIONS), use_bias=bias
    )
    experts = MoE(
      expert=plain,
      num_experts=3,
      top_k=one_of(1, 2),
      normalize_gates=flag(),
      shared_expert=one_of(None, MLP(hidden=8)),
      balance_loss=0.01,
      router_z_loss=0.01,
    )
    return one_of(plain, plain, experts)

  def layer(cross, kv_heads=None, rule=None):
    parallel = not cross and flag()
    placement = "pre" if parallel else one_of("pre", "post", "sandwich")
    return Layer(
      attention=attention(kv_heads, one_of(None, None, TransformerXLBias())),
      cross_attention=attention() if cross else None,
      mlp=mlp(),
      norm=norm(),
      parallel=parallel,
      parallel_norms=one_of(1, 2),
      norm_placement=placement,
      residual_scale=1.5 if placement == "post" else 1.0,
      rule=rule,
    )

  def position(one_way):
    return one_of(
      NoPosition(),
      Rope(
        base=one_of(100.0, 1e6),
        fraction=one_of(1.0, 0.67),
        interleaved=flag(),
        scaling=one_of(
          None, Linear(2.0), NTK(2.0), Yarn(2.0, 8), Llama3(2.0, 8)
        ),
      ),
      Learned(max_length=40, offset=one_of(0, 2)),
      Sinusoidal(),
      Alibi(num_heads=HEADS),
      T5Bias(num_heads=HEADS, bidirectional=not one_way),
    )

  def stack(rule, cross, *, local=None, **settings):
    layers = one_of(
      layer(cross), Period((layer(cross), layer(cross, rule=local)))
    )
    return Stack(
      layer=layers,
      num_layers=2,
      rule=rule,
      position=position(one_way=rule != Full()),
      input_norm=one_of(None, norm()),
      final_norm=one_of(None, norm()),
      scan=flag(),
      remat=one_of(None, "full", "dots", "context"),
      **settings,
    )

  cross = flag()
  share = cross and flag()
  one_way = one_of(
    Causal(), Window(4), Or((Window(2), And((Causal(), Sinks(2)))))
  )
  rule = one_way if cross else one_of(one_way, PrefixCausal())
  decoder = stack(rule, cross, local=Window(3))
  if not cross and flag():
    lower = stack(Window(3), False)
    upper = Stack(
      layer=layer(False, kv_heads=2), num_layers=2, rule=Causal(),
      position=one_of(NoPosition(), Rope(), Alibi(num_heads=HEADS)),
    )  # fmt: skip
    decoder = DecoderDecoder(
      self_decoder=lower, cross_decoder=upper, norm=norm()
    )
  width = one_of(10, 24)
  transformer = Transformer(
    width=width,
    vocab_size=tiny.VOCAB,
    encoder=stack(Full(), False, local=LocalWindow(3))
    if cross and not share
    else None,
    decoder=decoder,
    share_encoder=share,
    encoder_width=14 if cross and not share and flag() else None,
    embedding=Embedding(
      width=one_of(None, 8), scale=flag(), num_token_types=one_of(0, 2)
    ),
    lm_head=LMHead(
      tied=flag(),
      scale=flag(),
      transform=one_of(None, HeadTransform(norm=LayerNorm())),
      use_bias=flag(),
      normalize=flag(),
      soft_cap=one_of(None, 10.0),
    ),
  )
  return Model(transformer=transformer)


SEEDS = range(6)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_losses_pack_and_logits_cache(seed):
  model, inputs, steps = random_model(seed), (7, 0, 5), 6
  params = tiny.random_params(model, seed)
  batch = tiny.batch(model, inputs=inputs, targets=(steps,) * 3, seed=seed)

  loss = tiny.jit(lambda params, batch: model.objective(params, batch))
  np.testing.assert_allclose(
    loss(params, tiny.packed(batch)), loss(params, batch), rtol=1e-4
  )

  starts = np.array(inputs) * (model.row_format.name != "encoder_decoder")
  rows, expected = np.arange(3), tiny.jit(model.logits)(params, batch)
  atol = 1e-5 * np.abs(expected).max()  # Squares make some logits large.
  out, state = tiny.jit(
    lambda params, batch: model.prefill(params, batch, max_new_tokens=steps)
  )(params, batch)
  decode_step = tiny.jit(model.decode_step)
  for step in range(steps):
    np.testing.assert_allclose(
      out, expected[rows, starts + step], rtol=1e-3, atol=10 * atol
    )
    if step < steps - 1:
      tokens = batch["decoder_input_tokens"][rows, starts + step + 1]
      out, state = decode_step(params, state, jax.numpy.asarray(tokens))


@pytest.mark.parametrize("seed", SEEDS)
def test_later_tokens_move_nothing_before_them_and_padding_nothing(seed):
  model = random_model(seed)
  params, batch = tiny.random_params(model, seed), tiny.batch(model)
  logits = tiny.jit(model.logits)
  ids = batch["decoder_input_tokens"]
  prefix = batch.get("decoder_causal_attention", np.zeros_like(ids))
  before = np.asarray(logits(params, batch))
  scale = np.abs(before).max()
  real = batch["decoder_segment_ids"] > 0
  for row, length in enumerate(real.sum(axis=1)):
    for place in (int(prefix[row].sum()), length - 1, length):
      if place == ids.shape[1]:
        continue
      changed = ids.copy()
      changed[row, place] = changed[row, place] % (tiny.VOCAB - 1) + 1
      after = logits(params, {**batch, "decoder_input_tokens": changed})
      moved = np.abs(np.asarray(after) - before).max(-1) > 1e-5 * scale
      assert not moved[row, : min(place, length)].any()
      assert not moved[real & (np.arange(3)[:, None] != row)].any()


@pytest.mark.parametrize("seed", SEEDS[:2])
def test_gradients_are_finite_and_reach_every_parameter(seed):
  model = random_model(seed + 100)
  params, batch = tiny.random_params(model, seed), tiny.batch(model)

  def loss(params):
    return model.objective(params, batch)

  def check(path, g):
    name = jax.tree_util.keystr(path)
    assert np.isfinite(g).all(), name
    # Of so few tokens, none may go to some expert; ids none; types are 0.
    assert np.any(g) or "expert" in name, name

  jax.tree.map_with_path(check, tiny.jit(jax.grad(loss))(params))


@pytest.mark.parametrize("seed", SEEDS[:3])
def test_eight_devices_compute_what_one_does(seed):
  model = random_model(seed)
  params = tiny.random_params(model, seed)
  batch = tiny.batch(model, inputs=(7, 3, 5, 1), targets=(4, 6, 2, 7))

  def objective(params, batch):
    return model.objective(params, batch)

  alone = tiny.jit(objective)(params, batch)
  axes = model.logical_axes()
  layout = Layout(mesh={"data": 2, "tensor": 4}).fit(axes, params)
  placed = jax.device_put(params, layout.tree_shardings(axes, params))
  with layout.activate():
    together = tiny.jit(objective)(placed, layout.shard_batch(batch))
  np.testing.assert_allclose(together, alone, rtol=1e-4)
