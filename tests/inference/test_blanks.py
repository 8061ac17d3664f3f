"""An encoder fills in masks, and GLM blanks, as texts."""

import re

import numpy as np
import pytest

from t5x_lite import decoding
from t5x_lite.data.vocabularies.byte import Bytes
from t5x_lite.data.vocabulary_record import Feature, TextTask
from t5x_lite.inference import hugging_face, infer
from t5x_lite.inference.language_model import LanguageModel
from t5x_lite.model import Model
from t5x_lite.nn.positions import Learned2D
from tests import tiny

WORDS = [f"w{i}" for i in range(26)]
KINDS = {
  "BertForMaskedLM": {
    "pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]",
    "mask": "[MASK]",
  },
  # Padding is not the first id here, as published.
  "RobertaForMaskedLM": {
    "cls": "<s>", "pad": "<pad>", "sep": "</s>", "unk": "<unk>",
    "mask": "<mask>",
  },
}  # fmt: skip


@pytest.fixture(scope="module", params=KINDS)
def pair(request, tmp_path_factory):
  """A random encoder of theirs with a tokenizer, saved, and ours."""
  import tokenizers
  import torch
  import transformers

  torch.manual_seed(1)
  torch.set_num_threads(1)
  special = KINDS[request.param]
  ids = {word: i for i, word in enumerate([*special.values(), *WORDS])}
  kind = getattr(transformers, request.param)
  config = kind.config_class(
    vocab_size=len(ids) + 3, hidden_size=16, num_hidden_layers=2,
    num_attention_heads=2, intermediate_size=24, max_position_embeddings=32,
    pad_token_id=ids[special["pad"]],
  )  # fmt: skip
  model = kind(config).eval()
  with torch.no_grad():
    for p in model.parameters():
      p.add_(0.3 * torch.randn_like(p))
  words = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(ids, unk_token=special["unk"])
  )
  words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  words.post_processor = tokenizers.processors.TemplateProcessing(
    single=f"{special['cls']} $A {special['sep']}",
    special_tokens=[(special[name], ids[special[name]])
                    for name in ("cls", "sep")],
  )  # fmt: skip
  tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_object=words, **{f"{k}_token": v for k, v in special.items()}
  )
  directory = tmp_path_factory.mktemp("hf")
  model.save_pretrained(directory)
  tokenizer.save_pretrained(directory)
  return model, tokenizer, hugging_face.load(directory)


def texts_with_masks(mask):
  rng = np.random.default_rng(0)
  texts = []
  for size in rng.integers(2, 12, 24):
    words = rng.choice(WORDS, size).tolist()
    for place in rng.choice(size, min(size, 1 + size // 4), replace=False):
      words[place] = mask
    texts.append(" ".join(words))
  return texts


def fill_theirs(model, tokenizer, text):
  """Fills the surest mask, then the surest of the others, and so on."""
  import torch

  ids = tokenizer(text, return_tensors="pt").input_ids
  left = (ids[0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
  log_probs = {}
  while left:
    with torch.no_grad():
      log_p = model(ids).logits[0].log_softmax(-1)
    log_p[:, tokenizer.all_special_ids] = -torch.inf
    log_p[:, len(tokenizer) :] = -torch.inf
    place = max(left, key=lambda i: log_p[i].max().item())
    left.remove(place)
    ids[0, place] = log_p[place].argmax()
    log_probs[place] = log_p[place].max().item()
  filled = tokenizer.decode(ids[0], skip_special_tokens=True)
  return filled, [log_probs[place] for place in sorted(log_probs)]


def test_masks_of_bert_and_roberta_are_filled_as_theirs(pair):
  model, tokenizer, ours = pair
  texts = texts_with_masks(tokenizer.mask_token)
  expected = [fill_theirs(model, tokenizer, text) for text in texts]
  job = ours.generation()
  found = infer.run(job, ours.params, [{"text": text} for text in texts])
  for result, (filled, log_probs) in zip(found, expected, strict=True):
    assert result["filled"].split() == filled.split()
    assert result["num_tokens"] == len(log_probs)
    np.testing.assert_allclose(
      result["token_log_likelihoods"], log_probs, atol=1e-4
    )
    np.testing.assert_allclose(
      result["log_likelihood"], sum(log_probs), atol=1e-3
    )
  # However a blank is written.
  for blank in ("___", "<extra_id_0>", "<extra_id_7>"):
    text = texts[0].replace(tokenizer.mask_token, blank)
    (filled,) = ours.generate([text])
    assert filled.split() == expected[0][0].split()


def test_encoders_embed_by_the_mean_of_their_last_states(pair):
  import torch

  model, tokenizer, ours = pair
  texts = ["w1", "w2 w3 w4 w5 w6"]
  for found, text in zip(ours.embed(texts), texts, strict=True):
    with torch.no_grad():
      ids = tokenizer(text, return_tensors="pt").input_ids
      states = model.base_model(ids).last_hidden_state
    np.testing.assert_allclose(found, states[0].mean(0), atol=1e-4)


def test_what_an_encoder_cannot_do_is_said_in_one_line(pair):
  _, tokenizer, ours = pair
  mask = tokenizer.mask_token
  for call, match in {
    lambda: ours.generate(["w1 w2"]): "text 1: the text has no blank to fill",
    lambda: ours.generate([f"{mask} {mask}"], max_new_tokens=1):
      r"text 1: the text has 2 masks, more than max_new_tokens \(1\)",
    lambda: ours.generate([mask], num_beams=2): "leave out num_beams",
    lambda: ours.generate([mask], stop_strings=["w"]): "stop='w' ends a text",
    lambda: ours.score(["w1"], ["w2"]): "encoder .* gives no log p",
    lambda: ours.generate([" ".join(["w1"] * 30 + [mask])]):
      "inputs has 31 tokens, more than the maximum of (30|28): shorten",
  }.items():  # fmt: skip
    with pytest.raises(ValueError, match=match):
      call()


def test_a_classifier_is_not_loaded_to_fill_in_words(tmp_path):
  import transformers

  kind = transformers.BertForSequenceClassification
  config = kind.config_class(
    vocab_size=31, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
    intermediate_size=24,
  )  # fmt: skip
  kind(config).save_pretrained(tmp_path)
  with pytest.raises(ValueError, match="Classification, whose head predicts"):
    hugging_face.load(tmp_path)


LETTERS = range(100, 126)  # Of Bytes: "a" to "z".


def of_bytes(model, *features, allowed):
  """Makes a LanguageModel of random weights that reads and writes bytes."""
  model = tiny.with_vocab(model, 384)
  task = TextTask(
    name="bytes",
    features={
      name: Feature(Bytes(), name == "targets" and "positions" in features)
      for name in features
    },
    delimiters=(),
  )
  barred = [i for i in range(384) if i not in allowed]
  return LanguageModel(
    model=model,
    params=tiny.random_params(model),
    task=task,
    lengths=dict.fromkeys(features, 16),
    constraints=decoding.Constraints(suppressed=barred),
  )


def test_masks_of_a_run_are_single_tokens_in_their_places():
  # Masks and special ids are no text, so that they are never drawn.
  special = {0, 1, 2, *range(259, 384)}
  model = of_bytes(
    tiny.encoder(), "inputs", "targets", "weights",
    allowed=[*LETTERS, *special],
  )  # fmt: skip
  texts = ["a___b", "___, <extra_id_3>!", "x<extra_id_0>"]
  for arguments in ({}, {"temperature": 5.0, "seed": 1}):
    filled = model.generate(texts, **arguments)
    for text, pattern in zip(
      filled, ["a[a-z]b", "[a-z], [a-z]!", "x[a-z]"], strict=True
    ):
      assert re.fullmatch(pattern, text), text
  assert list(model.stream("a___b")) == model.generate(["a___b"])


def test_blanks_of_glm_are_filled_from_left_to_right():
  decoder = tiny.prefix_lm().transformer.decoder
  position = Learned2D(max_length=16, max_blank=12)
  transformer = tiny.prefix_lm().transformer.clone(
    decoder=decoder.clone(position=position)
  )
  eos = Bytes().eos_id
  model = of_bytes(
    Model(transformer=transformer), "inputs", "targets", "positions",
    allowed=[*range(100, 103), eos],
  )  # fmt: skip
  job = model.generation(max_new_tokens=12, temperature=1.0, seed=2)
  texts = ["a ___ c ___!", "<extra_id_2>"] * 4
  lengths = set()
  for result in infer.run(job, model.params, [{"text": x} for x in texts]):
    blank = "<extra_id_2>" if "2" in result["text"] else "<extra_id_0>"
    spans = result["prediction"].split(blank)[1:]
    lengths |= set(map(len, spans))
    expected = result["text"].replace("___", blank)
    for span in spans:
      expected = expected.replace(blank, span, 1)
    assert result["filled"] == expected
    assert result["num_tokens"] == len(result["token_log_likelihoods"])
    assert sum(map(len, spans)) <= result["num_tokens"] <= 12
  assert len(lengths) > 2, "all spans have one length"
  for call, match in {
    lambda: model.generate(["a b"]): "text 1: the text has no blank to fill",
    lambda: model.generate(["___"], max_new_tokens=13):
      r"max_new_tokens \(13\) is more than .*max_blank \(12\)",
    lambda: model.generate(["___"], penalty_alpha=0.6, top_k=4):
      "Contrastive generates a whole text",
    lambda: model.score(["a ___"], ["b"]): "prefix that .* gives no log p",
  }.items():  # fmt: skip
    with pytest.raises(ValueError, match=match):
      call()
