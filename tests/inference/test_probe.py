"""Probes show what the model computes, and what `transformers` shows."""

import jax
import numpy as np
import pytest

from t5x_lite.inference.probe import cosine_distances, logit_lens, probe
from tests import tiny


@pytest.mark.parametrize("scan", [False, True])
def test_last_states_give_the_models_logits(scan):
  model = tiny.llama(scan=scan)
  params, batch = tiny.random_params(model), tiny.batch(model)
  trace = probe(model, params, batch)["decoder"]
  assert trace.states.shape == (tiny.LAYERS + 1, 3, 15, tiny.WIDTH)
  ids, probabilities = logit_lens(model, params, trace.states, top_k=4)
  assert ids.shape == (tiny.LAYERS + 1, 3, 15, 4)
  expected = jax.nn.softmax(tiny.jit(model.logits)(params, batch))
  np.testing.assert_array_equal(ids[-1, ..., 0], np.argmax(expected, -1))
  largest = np.sort(np.asarray(expected), axis=-1)[..., ::-1][..., :4]
  np.testing.assert_allclose(probabilities[-1], largest, rtol=1e-4, atol=1e-6)


def test_attention_sums_to_one_over_what_is_seen():
  model = tiny.t5()
  params, batch = tiny.random_params(model), tiny.batch(model)
  traces = probe(model, params, batch)
  assert traces.keys() == {"encoder", "decoder"}
  assert traces["encoder"].cross_attention is None
  decoder = traces["decoder"]
  assert decoder.cross_attention.shape == (tiny.LAYERS, 3, tiny.HEADS, 7, 8)
  real = batch["decoder_segment_ids"] > 0
  for maps in (decoder.attention, decoder.cross_attention):
    sums = maps.sum(axis=-1).transpose(1, 3, 0, 2)[real]
    np.testing.assert_allclose(sums, 1, rtol=1e-5)
  later = np.triu(np.ones((7, 7), bool), 1)
  assert not decoder.attention[..., later].any()
  padding = np.broadcast_to(
    (batch["encoder_segment_ids"] == 0)[None, :, None, None],
    decoder.cross_attention.shape,
  )
  assert not decoder.cross_attention[padding].any()


def test_a_shared_encoder_has_a_trace_of_its_own():
  model = tiny.t5()
  stack = model.transformer.decoder
  position = stack.position.clone(bidirectional=True)
  transformer = model.transformer.clone(
    encoder=None, share_encoder=True, decoder=stack.clone(position=position)
  )
  model = type(model)(transformer=transformer)
  batch = tiny.batch(model)
  traces = probe(model, tiny.random_params(model), batch)
  assert traces["encoder"].states.shape[2] == 8
  assert traces["decoder"].states.shape[2] == 7
  assert traces["encoder"].cross_attention is None
  assert traces["decoder"].cross_attention is not None


def test_states_and_attention_are_those_of_transformers(tmp_path):
  import torch
  import transformers

  from t5x_lite.interop import load_hf

  torch.set_num_threads(1)
  torch.manual_seed(0)
  config = transformers.LlamaConfig(
    vocab_size=37, hidden_size=20, intermediate_size=28, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=6,
    attn_implementation="eager",
  )  # fmt: skip
  theirs = transformers.LlamaForCausalLM(config).eval()
  ids = np.random.default_rng(0).integers(1, 37, (2, 9))
  with torch.no_grad():
    out = theirs(
      torch.tensor(ids), output_hidden_states=True, output_attentions=True
    )
  theirs.save_pretrained(tmp_path)
  ours = load_hf(tmp_path)
  trace = probe(
    ours.model, ours.params, {"decoder_input_tokens": ids.astype(np.int32)}
  )["decoder"]
  attention = np.stack([a.numpy() for a in out.attentions])
  np.testing.assert_allclose(trace.attention, attention, atol=1e-5)
  # Theirs of the last layer has passed the final norm.
  states = np.stack([h.numpy() for h in out.hidden_states[:-1]])
  np.testing.assert_allclose(trace.states[:-1], states, atol=1e-4)


def test_cosine_distance_is_zero_to_itself_and_two_to_the_opposite():
  x = np.ones((1, 1, 2, 3), np.float32)
  states = np.concatenate([x, 5 * x, -x])
  np.testing.assert_allclose(
    cosine_distances(states)[:, 0, 0], [0, 2], atol=1e-6
  )


def test_probing_changes_no_program():
  model = tiny.llama()
  params, batch = tiny.random_params(model), tiny.batch(model)
  program = str(jax.make_jaxpr(model.logits)(params, batch))
  probe(model, params, batch)
  assert str(jax.make_jaxpr(model.logits)(params, batch)) == program
