"""A converted encoder reads texts by its own tokenizer, and trains by MLM."""

import numpy as np

import t5x_lite
from launch import config, main
from t5x_lite.data.reader import Reader
from t5x_lite.training.run import Run
from tests.tasks import tokenizer_files

TEXTS = ["the [MASK] sat on ___.", "the cat ___"]


def save(directory):
  """Saves a random BERT with a vocab.txt, as early ones are published."""
  import torch
  import transformers

  ids = tokenizer_files.word_piece(lowercase=True).get_vocab()
  torch.manual_seed(0)
  model = transformers.BertForMaskedLM(
    transformers.BertConfig(
      vocab_size=len(ids), hidden_size=16, num_hidden_layers=1,
      num_attention_heads=2, intermediate_size=24, max_position_embeddings=34,
      initializer_range=0.5,
    )
  )  # fmt: skip
  model.save_pretrained(directory)
  (directory / "vocab.txt").write_text("\n".join(sorted(ids, key=ids.get)))
  return transformers.BertTokenizer.from_pretrained(directory)


def test_a_converted_bert_fills_masks_and_trains_as_it_was_trained(tmp_path):
  theirs, run = save(tmp_path / "hf"), tmp_path / "run"
  arguments = [f"--input={tmp_path}/hf", "--to=run", f"--output={run}"]
  assert main.main(["convert", *arguments]) == 0
  model, original = t5x_lite.load(run), t5x_lite.load(tmp_path / "hf")
  filled = model.generate(TEXTS)
  assert filled == original.generate(TEXTS)
  assert not any("[MASK]" in text or "___" in text for text in filled)
  for text in tokenizer_files.TEXTS:
    expected = theirs.encode(text, add_special_tokens=False)
    assert model.vocabulary.encode(text) == expected, text
  # Each window of text stands between the tokens that texts stand between.
  config.load([run / "config.gin"], ["data.Data.batch_size = 8"])
  built = config.build(Run)
  batch = next(iter(Reader(built.train, built.model.row_format).batches()))
  ids, inside = batch["encoder_input_tokens"], batch["encoder_segment_ids"] > 0
  assert ids.shape[1] <= 34
  assert set(ids[:, 0]) == {theirs.cls_token_id}
  assert set(ids[np.arange(8), inside.sum(1) - 1]) == {theirs.sep_token_id}
  chosen = ids[batch["encoder_loss_weights"] > 0]
  assert 0.6 < np.mean(chosen == theirs.mask_token_id) < 1
