"""BERT and RoBERTa are those of `transformers`."""

import json

import numpy as np
import pytest

from t5x_lite.interop import load_hf, save_hf
from tests import tiny
from tests.interop import parity

SIZES = {
  "vocab_size": tiny.VOCAB,
  "hidden_size": tiny.WIDTH,
  "num_hidden_layers": tiny.LAYERS,
  "num_attention_heads": tiny.HEADS,
  "intermediate_size": tiny.HIDDEN,
  "max_position_embeddings": 53,
  "type_vocab_size": 3,
  "layer_norm_eps": 1e-12,
}


class TestMaskedWords(parity.Logits):
  architecture = "BertForMaskedLM"
  options = {**SIZES, "hidden_act": "relu"}


class TestNextSentences(parity.Parity):
  """Both heads, and sentences told apart by types."""

  architecture = "BertForPreTraining"
  options = SIZES

  def test_types_and_next_sentence_agree(self, pair):
    import torch

    batch = pair.long_batch()
    ids = batch["encoder_input_tokens"]
    types = (np.arange(ids.size) % 3).reshape(ids.shape)
    batch["encoder_token_types"] = types
    with torch.no_grad():
      words, sentences = pair.hf(
        torch.tensor(ids).long(),
        attention_mask=torch.tensor(batch["encoder_segment_ids"]),
        token_type_ids=torch.tensor(types),
      )[:2]
    model, params = pair.ours.model, pair.ours.params
    real = batch["encoder_segment_ids"] > 0
    np.testing.assert_allclose(
      pair.ours.logits(batch)[real], words[real], atol=parity.LOGITS, rtol=0
    )
    np.testing.assert_allclose(
      model.class_logits(params, batch), sentences, atol=parity.LOGITS, rtol=0
    )

  def test_masked_words_alone_are_read_where_the_config_says_so(
    self, pair, tmp_path
  ):
    """As published files do, which hold both heads."""
    for file in pair.directory.iterdir():
      (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "config.json"
    options = json.loads(config.read_text())
    for name in (["BertForMaskedLM"], None):
      config.write_text(json.dumps({**options, "architectures": name}))
      loaded = load_hf(tmp_path)
      assert loaded.model.transformer.classifier is None
      assert loaded.params.keys() == pair.ours.params.keys() - {"classifier"}
    config.write_text(json.dumps({**options, "architectures": ["BertModel"]}))
    with pytest.raises(ValueError, match="architectures.*BertModel.*only"):
      load_hf(tmp_path)


class TestRoberta(parity.Parity):
  """Positions count on from the padding id."""

  architecture = "RobertaForMaskedLM"
  options = {**SIZES, "type_vocab_size": 1, "pad_token_id": 1}


@pytest.mark.parametrize(
  "of", ["SequenceClassification", "TokenClassification"]
)
@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_classes_agree_both_ways(family, of, tmp_path):
  import torch
  import transformers

  kind = getattr(transformers, f"{family}For{of}")
  config = kind.config_class(**SIZES, num_labels=5, pad_token_id=0)
  theirs = kind(config).eval()
  torch.manual_seed(0)
  with torch.no_grad():
    for p in theirs.parameters():
      p.add_(0.3 * torch.randn_like(p))
  theirs.save_pretrained(tmp_path / "theirs")
  ours = load_hf(tmp_path / "theirs")
  save_hf(ours.model, ours.params, tmp_path / "ours")
  again, info = kind.from_pretrained(
    tmp_path / "ours", output_loading_info=True
  )
  assert not info["missing_keys"] and not info["unexpected_keys"], info
  batch = tiny.batch(ours.model)
  real = batch["encoder_segment_ids"]
  classes = ours.model.class_logits(ours.params, batch)
  where = real > 0 if of == "TokenClassification" else slice(None)
  for model in (theirs, again.eval()):
    with torch.no_grad():
      logits = model(
        torch.tensor(batch["encoder_input_tokens"]).long(),
        attention_mask=torch.tensor(real),
      ).logits.numpy()
    np.testing.assert_allclose(
      classes[where], logits[where], atol=parity.LOGITS, rtol=0
    )


@pytest.mark.parametrize(
  "option",
  [{"is_decoder": True}, {"position_embedding_type": "relative_key"},
   {"hidden_act": "mish"}, {"tie_word_embeddings": False},
   {"num_attention_heads": 3}],
)  # fmt: skip
def test_unsupported_options_are_refused(option):
  parity.refused("bert", SIZES, **option)
  parity.refused("roberta", SIZES, **option)
