"""Hugging Face directories: onto devices, in shards, and when they are bad."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.devices.layout import Layout
from t5x_lite.interop import load_hf, save_hf
from t5x_lite.interop.safetensors_files import Weights
from t5x_lite.nn.heads import LMHead
from tests import tiny


@pytest.fixture
def model():
  return tiny.llama()


@pytest.fixture
def saved(model, tmp_path):
  """A LLaMA of random weights in three shards or more."""
  save_hf(model, tiny.random_params(model), tmp_path / "hf", shard_bytes=12_000)
  return tmp_path / "hf"


def change_config(directory, **options):
  path = directory / "config.json"
  path.write_text(json.dumps(json.loads(path.read_text()) | options))


def refused(directory, *words):
  with pytest.raises(ValueError) as error:
    load_hf(directory)
  message = str(error.value)
  assert "\n" not in message
  for word in words:
    assert word in message, message


@pytest.mark.parametrize("scan", [False, True])
def test_each_device_gets_its_part(saved, model, scan):
  layout = Layout(mesh={"data": 2, "tensor": 4}, rules=(("embed", "data"),))
  loaded = load_hf(saved, layout=layout, scan=scan)
  expected = tiny.random_params(model)
  expected = tiny.stacked(expected) if scan else expected
  jax.tree.map(np.testing.assert_array_equal, loaded.params, expected)
  decoder = loaded.params["decoder"]
  layer = decoder["layers"]["layer_0"] if scan else decoder["layer_0"]
  query = layer["attention"]["query"]["kernel"]
  parts = {shard.data.shape[-3:] for shard in query.addressable_shards}
  assert parts == {(tiny.WIDTH // 2, tiny.HEADS // 4, tiny.HEAD_DIM)}
  batch = {"decoder_input_tokens": np.arange(6, dtype=np.int32)[None]}
  plain = load_hf(saved)
  np.testing.assert_allclose(
    loaded.logits(batch), plain.logits(batch), atol=1e-5
  )


def test_bfloat16_files_keep_their_bits(model, tmp_path):
  params = jax.tree.map(
    lambda x: jnp.asarray(x, jnp.bfloat16), tiny.random_params(model)
  )
  save_hf(model, params, tmp_path)
  kept = load_hf(tmp_path, param_dtype=None, dtype="bfloat16")
  jax.tree.map(np.testing.assert_array_equal, kept.params, params)
  leaves = jax.tree.leaves(load_hf(tmp_path).params)
  assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


def test_model_that_no_family_can_say_is_refused(tmp_path):
  model = tiny.palm()
  with pytest.raises(ValueError, match="no family can"):
    save_hf(model, tiny.random_params(model), tmp_path)
  with pytest.raises(
    ValueError, match="llama cannot say.*parallel is True, not False"
  ):
    save_hf(model, tiny.random_params(model), tmp_path, family="llama")


def test_parameters_of_another_model_are_refused(model, tmp_path):
  params = tiny.random_params(model)
  del params["head"]
  params["extra"] = np.zeros(3)
  with pytest.raises(ValueError, match=r"-head, \+extra"):
    save_hf(model, params, tmp_path)


def test_directory_with_weights_is_not_written_over(saved, model):
  with pytest.raises(ValueError, match="already"):
    save_hf(model, tiny.random_params(model), saved)


def test_missing_shard_is_named(saved):
  shard = sorted(saved.glob("*.safetensors"))[1]
  shard.unlink()
  refused(saved, shard.name)


@pytest.mark.parametrize("keep", [0, 20, 3000])
def test_shard_cut_short_is_named(saved, keep):
  shard = sorted(saved.glob("*.safetensors"))[1]
  shard.write_bytes(shard.read_bytes()[:keep])
  refused(saved, shard.name, f"{keep} bytes", "cut short or damaged")


def test_damaged_header_is_named(saved):
  shard = sorted(saved.glob("*.safetensors"))[0]
  content = bytearray(shard.read_bytes())
  content[9] ^= 0xFF
  shard.write_bytes(content)
  refused(saved, shard.name)


def test_shard_without_what_the_index_says_is_named(saved):
  index = saved / "model.safetensors.index.json"
  content = json.loads(index.read_text())
  first = content["weight_map"]["model.norm.weight"]
  content["weight_map"]["model.other.weight"] = first
  index.write_text(json.dumps(content))
  refused(saved, first, "-model.other.weight")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": 3}'])
def test_damaged_index_is_named(saved, text):
  (saved / "model.safetensors.index.json").write_text(text)
  refused(saved, "model.safetensors.index.json")


def test_directory_without_weights_is_refused(tmp_path):
  (tmp_path / "config.json").write_text('{"model_type": "llama"}')
  refused(tmp_path, "holds neither model.safetensors")
  (tmp_path / "pytorch_model.bin").touch()
  refused(tmp_path, "pytorch_model.bin is not read")


def test_sizes_that_contradict_the_config_are_listed(saved):
  change_config(saved, intermediate_size=tiny.HIDDEN + 1)
  refused(saved, f"is [{tiny.HIDDEN}, {tiny.WIDTH}], wanted [29, {tiny.WIDTH}]")


def test_missing_and_unexpected_names_are_listed(saved):
  change_config(saved, num_hidden_layers=tiny.LAYERS - 1)
  refused(saved, "+model.layers.1.")
  change_config(saved, num_hidden_layers=tiny.LAYERS + 1)
  refused(saved, "-model.layers.2.")


def test_head_beside_a_tied_one_must_be_its_copy(saved):
  change_config(saved, tie_word_embeddings=True)
  refused(
    saved, "lm_head.weight differs from model.embed_tokens.weight, which it"
  )


def test_head_that_copies_a_tied_one_is_passed_over(tmp_path):
  from safetensors.numpy import load_file, save_file

  model = tiny.llama()
  model = tiny.dataclasses.replace(
    model, transformer=model.transformer.clone(lm_head=LMHead(tied=True))
  )
  params = tiny.random_params(model)
  save_hf(model, params, tmp_path)
  file = tmp_path / "model.safetensors"
  tensors = load_file(file)
  save_file(
    {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"],
     "model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(3, np.float32)},
    file,
  )  # fmt: skip
  jax.tree.map(np.testing.assert_array_equal, load_hf(tmp_path).params, params)


def test_integers_for_weights_are_refused(saved):
  from safetensors.numpy import load_file, save_file

  for file in saved.glob("*.safetensors"):
    tensors = load_file(file)
    if "model.norm.weight" in tensors:
      tensors["model.norm.weight"] = tensors["model.norm.weight"].astype("int8")
      save_file(tensors, file)
  refused(saved, "model.norm.weight is I8, wanted one of F32")


@pytest.mark.parametrize(
  ("option", "words"),
  [
    ({"hidden_act": "mish"}, ["hidden_act", "'mish'", "'silu'"]),
    ({"attention_bias": 1}, ["attention_bias", "true or false"]),
    ({"mlp_bias": "yes"}, ["mlp_bias", "'yes'"]),
    ({"use_sliding_window": True}, ["use_sliding_window = True"]),
    ({"is_decoder": True}, ["is_decoder = True"]),
    ({"quantization_config": {"bits": 4}}, ["quantization_config", "4"]),
    ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, ["dynamic"]),
    ({"num_attention_heads": 3}, ["num_heads (3)", "num_kv_heads (2)"]),
    ({"num_attention_heads": 6, "head_dim": None}, ["hidden_size (20)", "(6)"]),
    ({"hidden_size": "20"}, ["hidden_size", "'20'", "whole number"]),
    ({"hidden_size": None}, ["no hidden_size"]),
    ({"num_hidden_layers": 0}, ["num_hidden_layers", "0"]),
    ({"tie_word_embeddings": 1}, ["tie_word_embeddings", "true or false"]),
    ({"model_type": "umt5"}, ["model_type", "'umt5'", "llama,"]),
    ({"model_type": None}, ["model_type", "None"]),
  ],
)
def test_option_not_supported_is_refused_by_name(saved, option, words):
  change_config(saved, **option)
  refused(saved, "config.json", *words)


def test_what_changes_no_logit_is_passed_over_and_kept(saved, tmp_path):
  harmless = {
    "eos_token_id": 7, "torch_dtype": "float16", "is_decoder": False,
    "pruned_heads": {}, "rope_scaling": None, "id2label": {"0": "A"},
  }  # fmt: skip
  change_config(saved, **harmless)
  loaded = load_hf(saved)
  save_hf(loaded.model, loaded.params, tmp_path / "a", like=loaded.options)
  written = json.loads((tmp_path / "a/config.json").read_text())
  assert written["eos_token_id"] == 7 and written["id2label"] == {"0": "A"}
  assert written["dtype"] == "float32"


def test_older_names_are_read(saved):
  weights = Weights(saved)
  weights.rename([(r"^model\.", ""), (r"norm\.weight$", "norm.gamma")])
  assert weights.shapes["norm.gamma"] == (tiny.WIDTH,)
  assert weights.read("norm.gamma").shape == (tiny.WIDTH,)


def test_config_that_is_no_json_is_refused(saved):
  (saved / "config.json").write_text("{")
  refused(saved, "config.json is damaged: it is not JSON")
  (saved / "config.json").unlink()
  refused(saved, "holds no config.json")
