"""Splits over tensor and pipeline ranks: what each holds, and back again."""

import dataclasses

import jax
import numpy as np
import pytest

from t5x_lite.interop import safetensors_files
from t5x_lite.interop.parallel_split import load_split, save_split
from t5x_lite.nn.heads import LMHead
from tests import tiny


def rank(directory, tp, pp):
  return safetensors_files.Weights(
    directory / f"tensor_{tp:02d}_stage_{pp:03d}"
  )


def same_bits(model, params, directory):
  back = load_split(model, directory)
  jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize(("tp", "pp"), [(1, 1), (2, 2), (4, 1), (4, 2)])
@pytest.mark.parametrize("kind", ["llama", "palm", "t5"])
def test_split_and_back_gives_the_same_bits(tmp_path, kind, tp, pp):
  model = tiny.ALL[kind]()
  params = tiny.random_params(model)
  save_split(model, params, tmp_path, tp=tp, pp=pp)
  same_bits(model, params, tmp_path)


def test_scanned_and_separate_layers_have_one_split(tmp_path):
  model = tiny.llama()
  params = tiny.random_params(model)
  scanned = tiny.replace_stacks(model, scan=True)
  save_split(scanned, tiny.stacked(params), tmp_path, tp=2, pp=2)
  same_bits(model, params, tmp_path)
  same_bits(scanned, tiny.stacked(params), tmp_path)


def test_ranks_together_compute_what_the_whole_does(tmp_path):
  """Column- then row-parallel: the ranks' outputs add up (Megatron, fig. 3)."""
  model, tp = tiny.llama(num_kv_heads=2), 4
  params = tiny.random_params(model)
  save_split(model, params, tmp_path, tp=tp, pp=1)
  x = np.random.default_rng(0).normal(size=tiny.WIDTH)
  layer = params["decoder"]["layer_1"]
  mlp = {name: layer["mlp"][name]["kernel"] for name in layer["mlp"]}
  whole = np.maximum(x @ mlp["wi_gate"], 0) @ mlp["wo"]
  total, prefix = 0, "decoder/layer_1/"
  for r in range(tp):
    weights = rank(tmp_path, r, 0)
    gate = weights.read(f"{prefix}mlp/wi_gate/kernel")
    total += np.maximum(x @ gate, 0) @ weights.read(f"{prefix}mlp/wo/kernel")
    # Each of 4 query heads beside the one of 2 key heads that it reads.
    for name, head in (("query", r), ("key", r // 2), ("value", r // 2)):
      kernel = weights.read(f"{prefix}attention/{name}/kernel")
      expected = layer["attention"][name]["kernel"][:, head : head + 1]
      np.testing.assert_array_equal(kernel, expected)
  np.testing.assert_allclose(total, whole, rtol=1e-5)


def test_stages_hold_their_layers_and_the_vocabulary_is_filled_up(tmp_path):
  model = tiny.llama()
  save_split(model, tiny.random_params(model), tmp_path, tp=4, pp=2)
  first, last = rank(tmp_path, 3, 0), rank(tmp_path, 3, 1)
  assert {n for n in first.shapes if "/layer_" not in n} == {"token_embedding"}
  ends = {n for n in last.shapes if "/layer_" not in n}
  assert ends == {"decoder/final_norm/scale", "head"}
  assert {n.split("/")[1] for n in first.shapes if "/" in n} == {"layer_0"}
  # 37 words on 4 ranks: 10, 10, 10 and 7 with 3 rows of zeros.
  assert first.shapes["token_embedding"] == (10, tiny.WIDTH)
  assert not first.read("token_embedding")[7:].any()


def test_tied_embedding_and_relative_bias_lie_where_they_are_read(tmp_path):
  model = tiny.t5()
  transformer = model.transformer.clone(lm_head=LMHead(tied=True))
  model = dataclasses.replace(model, transformer=transformer)
  save_split(model, tiny.random_params(model), tmp_path, tp=1, pp=4)
  stages = [set(rank(tmp_path, 0, pp).shapes) for pp in range(4)]
  has = ["token_embedding" in stage for stage in stages]
  assert has == [True, False, True, True]
  encoder = ["encoder/position/relative_bias" in stage for stage in stages]
  assert encoder == [True, True, False, False]
  same_bits(model, tiny.random_params(model), tmp_path)


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"tp": 3, "pp": 1}, r"heads \(\d\) of decoder.*tp=3"),
    ({"tp": 1, "pp": 4}, r"layers \(2\).*pp=4"),
  ],
)
def test_what_cannot_be_shared_out_is_refused(tmp_path, settings, message):
  model = tiny.llama()
  with pytest.raises(ValueError, match=message):
    save_split(model, tiny.random_params(model), tmp_path, **settings)


def test_kv_heads_between_one_and_tp_must_divide_it(tmp_path):
  layer = tiny.llama().transformer.decoder.layer
  attention = layer.attention.clone(num_heads=12, num_kv_heads=3)
  model = tiny.replace_stacks(
    tiny.llama(), layer=layer.clone(attention=attention)
  )
  with pytest.raises(ValueError, match=r"kv_heads \(3\).*tp=4"):
    save_split(model, tiny.random_params(model), tmp_path, tp=4, pp=1)


def test_missing_rank_and_another_model_s_split_are_refused(tmp_path):
  model = tiny.llama()
  save_split(model, tiny.random_params(model), tmp_path, tp=2, pp=1)
  with pytest.raises(ValueError, match=r"tensor_00_stage_000.*-.*\+"):
    load_split(tiny.t5(), tmp_path)
  (tmp_path / "tensor_01_stage_000/model.safetensors").unlink()
  with pytest.raises(ValueError, match="tensor_01_stage_000 holds neither"):
    load_split(model, tmp_path)
  (tmp_path / "split.json").write_text("{}")
  with pytest.raises(ValueError, match="split.json is damaged"):
    load_split(model, tmp_path)
