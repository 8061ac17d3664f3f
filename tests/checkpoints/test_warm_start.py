"""Warm starts take what another run has, under other names."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from t5x_lite.checkpoints import Retention, WarmStart
from t5x_lite.checkpoints.manager import Checkpoints
from t5x_lite.checkpoints.warm_start import warm_start


def layer(i):
  return {"mlp": {"wi": jnp.full((4, 8), 10.0 + i)}}


SOURCE = {
  "embedding": jnp.arange(24.0).reshape(6, 4),
  "decoder": {f"layer_{i}": layer(i) for i in range(3)},
}
STACKED = jnp.stack([layer(i)["mlp"]["wi"] for i in range(3)])


@pytest.fixture
def source(tmp_path):
  """Returns a run with the parameters SOURCE, and zeros a step later."""
  with Checkpoints(tmp_path / "run", Retention()) as checkpoints:
    checkpoints.save(1, {"params": SOURCE})
    checkpoints.save(2, {"params": jax.tree.map(jnp.zeros_like, SOURCE)})
  return str(tmp_path / "run")


def save(run, params):
  with Checkpoints(run, Retention()) as checkpoints:
    checkpoints.save(1, {"params": params})
  return str(run)


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, a, b)


def abstract(tree):
  return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def test_paths_of_a_run_its_checkpoints_and_a_step(source):
  for spec in (
    WarmStart(path=source, step=1),
    WarmStart(path=f"{source}/checkpoints/1"),
  ):
    assert_same(warm_start(spec, abstract(SOURCE)), SOURCE)
  newest = warm_start(WarmStart(path=source), abstract(SOURCE))
  assert not jnp.any(newest["embedding"])


def test_renames_apply_in_order(source):
  spec = WarmStart(
    path=source,
    step=1,
    renames=(
      (r"^decoder/layer_(\d+)/mlp", r"encoder/layer_\1/ffn"),
      (r"^embedding$", "token_embedding"),
      (r"ffn", "feed_forward"),
    ),
  )
  params = {
    "token_embedding": SOURCE["embedding"],
    "encoder": {
      f"layer_{i}": {"feed_forward": layer(i)["mlp"]} for i in range(3)
    },
  }
  assert_same(warm_start(spec, abstract(params)), params)


def test_strict_lists_missing_unexpected_and_shapes_in_one_line(source):
  params = {
    "embedding": jnp.zeros((8, 4)),
    "decoder": {f"layer_{i}": layer(i) for i in range(2)},
    "head": jnp.zeros(3),
  }
  with pytest.raises(ValueError) as error:
    warm_start(WarmStart(path=source), params)
  message = str(error.value)
  for part in (
    "-head",
    "+decoder/layer_2/mlp/wi",
    "embedding is [6, 4], wanted [8, 4]",
  ):
    assert part in message
  assert "\n" not in message


def test_not_strict_keeps_what_was_given_and_says_so(source, caplog):
  caplog.set_level(logging.WARNING)
  params = {
    "embedding": jnp.ones((8, 4)),
    "decoder": {
      f"layer_{i}": {"mlp": {"wi": jnp.ones((4, 8))}} for i in (0, 1)
    },
    "head": jnp.ones(3),
  }
  started = warm_start(WarmStart(path=source, step=1, strict=False), params)
  expected = {**params, "decoder": {f"layer_{i}": layer(i) for i in (0, 1)}}
  assert_same(started, expected)
  (warning,) = caplog.messages
  assert "-head" in warning and "+decoder/layer_2/mlp/wi" in warning


def test_name_renamed_to_nothing_is_left_out(source):
  spec = WarmStart(
    path=source, step=1, renames=((r"^decoder/layer_[12]/.*", ""),)
  )
  params = {"embedding": SOURCE["embedding"], "decoder": {"layer_0": layer(0)}}
  assert_same(warm_start(spec, abstract(params)), params)


def test_unrolled_layers_become_stacked(source):
  params = {
    "embedding": SOURCE["embedding"],
    "decoder": {"layers": {"mlp": {"wi": STACKED}}},
  }
  spec = WarmStart(path=source, step=1)
  assert_same(warm_start(spec, abstract(params)), params)
  params["decoder"]["layers"]["mlp"]["wi"] = STACKED[:2]
  with pytest.raises(ValueError, match=r"\+decoder/layer_2/mlp/wi"):
    warm_start(spec, abstract(params))
  params["decoder"]["layers"]["mlp"]["wi"] = jnp.zeros((4, 4, 8))
  with pytest.raises(ValueError, match="-decoder/layers/mlp/wi"):
    warm_start(spec, abstract(params))


def test_stacked_layers_become_unrolled(tmp_path):
  run = save(tmp_path, {"decoder": {"layers": {"mlp": {"wi": STACKED}}}})
  params = {"decoder": SOURCE["decoder"]}
  assert_same(warm_start(WarmStart(path=run), abstract(params)), params)
  fewer = {"decoder": {f"layer_{i}": layer(i) for i in range(2)}}
  with pytest.raises(ValueError, match=r"\+decoder/layers/mlp/wi"):
    warm_start(WarmStart(path=run), abstract(fewer))
  spec = WarmStart(path=run, strict=False)
  assert_same(warm_start(spec, abstract(fewer)), fewer)


@pytest.mark.parametrize("stacked", [False, True])
def test_shardings_and_dtypes_are_those_asked_for(source, stacked):
  mesh = jax.make_mesh(
    (2, 4), ("data", "tensor"), axis_types=(jax.sharding.AxisType.Auto,) * 2
  )
  columns = NamedSharding(mesh, PartitionSpec(None, "tensor"))
  each = NamedSharding(mesh, PartitionSpec(None, None, "tensor"))

  def wanted(x, sharding):
    return jax.ShapeDtypeStruct(x.shape, jnp.bfloat16, sharding=sharding)

  layers = {"layers": {"mlp": {"wi": wanted(STACKED, each)}}}
  if not stacked:
    layers = jax.tree.map(lambda x: wanted(x, columns), SOURCE["decoder"])
  params = {
    "embedding": wanted(SOURCE["embedding"], columns),
    "decoder": layers,
  }
  started = warm_start(WarmStart(path=source, step=1), params)
  for leaf, want in zip(
    jax.tree.leaves(started), jax.tree.leaves(params), strict=True
  ):
    assert (leaf.dtype, leaf.sharding) == (want.dtype, want.sharding)
  assert started["embedding"][5, 3] == 23


@pytest.mark.parametrize(
  "renames, message",
  [
    ((("(", "x"),), r"renames: \('\(', 'x'\) is not a valid \(regular"),
    ((("a", r"\1"),), r"is not a valid \(regular expression, replacement\)"),
    (((r"layer_\d", "layer_0"),), "to 'decoder/layer_0/mlp/wi'"),
  ],
)
def test_bad_renames(source, renames, message):
  with pytest.raises(ValueError, match=message):
    warm_start(WarmStart(path=source, renames=renames), abstract(SOURCE))


def test_source_without_checkpoint(tmp_path):
  with pytest.raises(ValueError, match="no checkpoint in .*/none/checkpoints"):
    warm_start(WarmStart(path=str(tmp_path / "none")), abstract(SOURCE))


def test_a_grown_vocabulary_keeps_its_ids_and_the_last_ones_last(tmp_path):
  old = {
    "token_embedding": jnp.arange(20.0).reshape(5, 4),
    "head": jnp.arange(20.0).reshape(4, 5),
    "head_bias": jnp.arange(5.0),
  }
  path = save(tmp_path / "run", old)
  wanted = {
    "token_embedding": jnp.zeros((8, 4)),
    "head": jnp.zeros((4, 8)),
    "head_bias": jnp.zeros(8),
  }
  grown = warm_start(WarmStart(path=path, num_trailing_sentinels=2), wanted)
  for name, axis in (("token_embedding", 0), ("head", 1), ("head_bias", 0)):
    leaf, before = grown[name], np.asarray(old[name])
    assert_same(jnp.take(leaf, jnp.array([0, 1, 2, 6, 7]), axis), before)
    for i in (3, 4, 5):
      assert_same(jnp.take(leaf, i, axis), before.mean(axis))
  assert_same(
    warm_start(WarmStart(path=path, num_trailing_sentinels=2), abstract(old)),
    old,
  )


@pytest.mark.parametrize(
  ("num_trailing_sentinels", "size", "message"),
  [
    (None, 8, r"token_embedding"),
    (
      6,
      8,
      r"num_trailing_sentinels \(6\) must be at most the source's number of"
      r" ids \(5\)",
    ),
    (2, 4, r"ids \(5\), which must be at most the model's \(4\)"),
  ],
)
def test_a_vocabulary_that_does_not_grow_so_is_refused(
  tmp_path, num_trailing_sentinels, size, message
):
  path = save(tmp_path / "run", {"token_embedding": jnp.ones((5, 4))})
  with pytest.raises(ValueError, match=message):
    warm_start(
      WarmStart(path=path, num_trailing_sentinels=num_trailing_sentinels),
      {"token_embedding": jnp.zeros((size, 4))},
    )


def test_a_grown_vocabulary_moves_sentinels_not_the_rows_that_round_it_up(
  tmp_path,
):
  # Five ids, of which two are last, and a row of padding; then six of each.
  old = {"token_embedding": jnp.arange(12.0).reshape(6, 2)}
  path = save(tmp_path / "run", old)
  grown = warm_start(
    WarmStart(path=path, num_trailing_sentinels=2),
    {"token_embedding": jnp.zeros((6, 2))},
    vocabularies=(5, 6),
  )["token_embedding"]
  rows = np.asarray(old["token_embedding"])
  mean = rows[:5].mean(axis=0)
  expected = [*rows[:3], mean, *rows[3:5]]
  np.testing.assert_allclose(grown, expected)
