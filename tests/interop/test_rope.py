"""Rotary encodings as config.json states them turn as `transformers` turns."""

import jax.numpy as jnp
import numpy as np
import pytest

from t5x_lite.interop import rope
from t5x_lite.interop.config import Config
from t5x_lite.nn.attention_rules import TokenInfo
from t5x_lite.nn.positions import Rope
from t5x_lite.nn.rope_scaling import NTK

HEAD_DIM, LENGTH = 22, 50
SIZES = {
  "hidden_size": 2 * HEAD_DIM, "num_attention_heads": 2,
  "max_position_embeddings": 96,
}  # fmt: skip
SCALINGS = {
  "none": {"rope_type": "default"},
  "linear": {"rope_type": "linear", "factor": 3.0},
  "llama3": {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 24,
  },
  "llama3 from the longest text": {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 0.5,
    "high_freq_factor": 3.0,
  },
  "yarn": {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24,
  },
  "yarn with amplitudes": {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24,
    "beta_fast": 9.0, "beta_slow": 0.5, "mscale": 0.7, "mscale_all_dim": 1.1,
  },
  "yarn with a factor on attention": {
    "rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 24,
    "attention_factor": 0.9,
  },
}  # fmt: skip


def read(options, **settings):
  config = Config({**SIZES, **options}, "config.json", None)
  config.without_effect("hidden_size", "num_attention_heads")
  found = rope.Rotary(**settings).read(config)
  config.finish()
  return found


def turned(position):
  """Turns ones, so that each feature shows its sine and cosine."""
  index = jnp.arange(LENGTH)[None]
  tokens = TokenInfo(index, index, jnp.ones_like(index), index > 0)
  return position.rotate(jnp.ones((1, 1, LENGTH, HEAD_DIM)), tokens)[0, 0]


@pytest.mark.parametrize("name", SCALINGS)
def test_scaling_is_that_of_transformers_in_both_ways_to_state_it(name):
  import torch
  from transformers import LlamaConfig
  from transformers.models.llama import modeling_llama

  scaling = SCALINGS[name]
  parameters = {"rope_theta": 5000.0, **scaling}
  config = LlamaConfig(**SIZES, rope_parameters=dict(parameters))
  x = torch.ones(1, 1, LENGTH, HEAD_DIM)
  cos, sin = modeling_llama.LlamaRotaryEmbedding(config)(
    x, torch.arange(LENGTH)[None]
  )
  theirs, _ = modeling_llama.apply_rotary_pos_emb(x, x, cos, sin)
  new = read({"rope_parameters": parameters})
  np.testing.assert_allclose(turned(new), theirs[0, 0], atol=2e-5)
  old = read({"rope_theta": 5000.0, "rope_scaling": scaling})
  older = {"type": scaling["rope_type"], **scaling}
  del older["rope_type"]
  assert old == new == read({"rope_theta": 5000.0, "rope_scaling": older})


@pytest.mark.parametrize("name", SCALINGS)
def test_what_is_written_is_read_again(name):
  here = read({"rope_scaling": SCALINGS[name]})
  written = rope.Rotary().write(here)
  assert read(written) == here
  for way in ("rope_scaling", "rope_parameters"):
    if way in written:
      alone = {n: v for n, v in written.items() if n != way}
      assert read(alone) == here


def test_part_of_a_head_is_turned_where_the_family_may():
  parameters = {"rope_theta": 100.0, "partial_rotary_factor": 0.5}
  expected = Rope(base=100.0, fraction=0.5, interleaved=True)
  settings = {"fraction": 0.25, "interleaved": True}
  assert read({"rope_parameters": parameters}, **settings) == expected
  assert read(parameters, **settings) == expected
  assert read(rope.Rotary(**settings).write(expected), **settings) == expected
  assert read({}, **settings).fraction == 0.25
  with pytest.raises(ValueError, match="partial_rotary_factor = 0.5"):
    read({"rope_parameters": parameters})
  with pytest.raises(ValueError, match=r"fraction \(0.0\)"):
    read({"partial_rotary_factor": 0}, **settings)


@pytest.mark.parametrize(
  ("section", "words"),
  [
    ({"rope_type": "dynamic", "factor": 2.0}, "rope_type is 'dynamic'"),
    ({"type": "longrope"}, "type is 'longrope'"),
    ({"rope_type": "linear"}, "rope_scaling has no factor"),
    ({"rope_type": "linear", "factor": 2.0, "extra": 1}, "extra = 1"),
    ({"rope_type": "yarn", "factor": 2.0, "truncate": False}, "truncate"),
  ],
)
def test_scaling_not_supported_is_refused_by_name(section, words):
  with pytest.raises(ValueError, match=words):
    read({"rope_scaling": section})


def test_two_ways_must_agree():
  with pytest.raises(ValueError, match="say different things"):
    read({
      "rope_scaling": {"rope_type": "linear", "factor": 2.0},
      "rope_parameters": {"rope_theta": 10_000.0},
    })  # fmt: skip


def test_scaling_without_a_name_is_not_written():
  with pytest.raises(ValueError, match="no name for the rope scaling NTK"):
    rope.Rotary().write(Rope(scaling=NTK(2.0)))
