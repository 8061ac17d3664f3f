"""Settings beside converted weights: honoured, or refused by name."""

import json

import numpy as np
import pytest
import sentencepiece

from launch import config
from t5x_lite import interop
from t5x_lite.data.resolved_task import resolve
from t5x_lite.training.run import Run
from tests import tiny
from tests.launch.test_converted_texts import KINDS, _command, convert, small_t5


def test_what_is_not_supported_is_refused_and_leaves_nothing(tmp_path, capsys):
  source, run = tmp_path / "hf", tmp_path / "run"
  small_t5(source)
  generation = source / "generation_config.json"
  for said, message in [
    ({"penalty_alpha": 0.5, "stop_strings": ["a"]}, "remove them there, or go"),
    ({"decoder_start_token_id": 400}, "400, but the model has 384 ids"),
    ({"eos_token_id": [1, 384]}, "eos_token_id is 384, but the model has 384"),
  ]:
    generation.write_text(json.dumps({"decoder_start_token_id": 0, **said}))
    assert convert(source, "run", run) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not run.exists()
  generation.write_text(json.dumps({"stop_strings": ["a"]}))
  for to, ignored, message in [
    ("run", "stop_strings,stop", "--ignore=stop: no file that comes with"),
    ("run", "d_model", "they have: decoder_start_token_id, eos_token_id, s"),
    ("hf", "top_k", "--ignore=top_k is for --to=run, not --to=hf"),
  ]:
    assert convert(source, to, run, f"--ignore={ignored}") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not run.exists()
  assert convert(source, "run", run, "--ignore=stop_strings") == 0
  generation.write_text("{}")
  settings = json.dumps({"tokenizer_class": "ByT5Tokenizer", "eos_token": "x"})
  (source / "tokenizer_config.json").write_text(settings)
  assert convert(source, "run", tmp_path / "other") == 2
  assert "has no token 'x', which is eos_token in the files next" in (
    capsys.readouterr().err
  )


@pytest.mark.parametrize("eos", ["</s>", "<end>"])
@pytest.mark.parametrize("pair", [True, False])
def test_a_sentencepiece_model_has_the_ends_of_its_settings(
  tmp_path, pair, eos, capsys
):
  source, run = tmp_path / "hf", tmp_path / "run"
  model = tiny.with_vocab(tiny.t5() if pair else tiny.llama(), 64)
  interop.save_hf(model, tiny.random_params(model), source)
  name = "spiece" if pair else "tokenizer"
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a text of words", "and words of a text"] * 9),
    model_prefix=str(source / name), vocab_size=20, minloglevel=2,
    pad_id=0, eos_id=1, unk_id=2, bos_id=3, user_defined_symbols=["<end>"],
  )  # fmt: skip
  pieces = sentencepiece.SentencePieceProcessor(
    model_file=str(source / f"{name}.model")
  )
  (source / "tokenizer_config.json").write_text(
    json.dumps({"eos_token": "</s>", "bos_token": "▁a", "extra_ids": 0})
  )
  (source / "special_tokens_map.json").write_text(
    json.dumps({"eos_token": {"content": eos}})
  )
  if pair:
    path = source / "config.json"
    options = json.loads(path.read_text())
    path.write_text(json.dumps({**options, "decoder_start_token_id": 9}))
  assert convert(source, "run", run, "--gin.TARGETS=20") == 0
  config.load([run / "config.gin"])
  task = config.build(Run).train.task
  vocabulary = resolve(task).vocabulary
  assert vocabulary.eos_id == pieces.PieceToId(eos)
  start = 9 if pair else pieces.PieceToId("▁a")
  assert resolve(task).starts["start_id"] == start
  # A text that is scored ends with it.
  scored = ["score", f"--model_dir={run}", "--inputs=a", "--targets=words"]
  assert _command(capsys, *scored)["num_tokens"] == 1 + len(
    pieces.encode("words")
  )


def test_a_head_that_the_weights_lack_is_the_embedding(tmp_path, capsys):
  import torch
  import transformers

  kind = KINDS["t5"]
  options = {**kind.options, "tie_word_embeddings": False}
  theirs = transformers.T5ForConditionalGeneration(
    transformers.T5Config(**options)
  )
  theirs.save_pretrained(tmp_path)
  path = tmp_path / "config.json"
  config_json = json.loads(path.read_text())
  del config_json["scale_decoder_outputs"]
  # As v1.1 has been published.
  path.write_text(json.dumps({**config_json, "tie_word_embeddings": False}))
  loaded = interop.load_hf(tmp_path)
  assert loaded.model.transformer.lm_head.tied
  assert not loaded.model.transformer.lm_head.scale
  (note,) = loaded.notes
  assert "no lm_head.weight, though its config.json says" in note
  assert convert(tmp_path, "hf", tmp_path / "back") == 0
  assert note in capsys.readouterr().err
  # Theirs, read from the same files, gives the same logits; so do the files
  # that we write.
  ids = np.array([[4, 9, 1]])
  batch = {"encoder_input_tokens": ids, "decoder_input_tokens": ids}
  ours = loaded.logits({name: np.int32(x) for name, x in batch.items()})
  for directory in (tmp_path, tmp_path / "back"):
    again = type(theirs).from_pretrained(directory).eval()
    with torch.no_grad():
      logits = again(
        input_ids=torch.tensor(ids), decoder_input_ids=torch.tensor(ids)
      ).logits
    np.testing.assert_allclose(ours, logits.numpy(), atol=1e-4, rtol=0)
