"""Weights through the command line: Hugging Face, runs and splits."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
import sentencepiece

from launch import config, gin_writer, main
from t5x_lite import interop
from t5x_lite.files import lock
from t5x_lite.model import Model
from tasks import sentencepiece_training
from tests import tiny


def convert(source, to, target, *flags):
  return main.main(
    ["convert", f"--input={source}", f"--to={to}", f"--output={target}", *flags]
  )


def weights(directory):
  return (directory / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def byt5(tmp_path_factory):
  """A T5 of random weights with ByT5's tokenizer."""
  directory = tmp_path_factory.mktemp("hf")
  model = tiny.t5()
  transformer = model.transformer.clone(vocab_size=384)
  model = dataclasses.replace(model, transformer=transformer)
  interop.save_hf(model, tiny.random_params(model), directory)
  (directory / "tokenizer_config.json").write_text(
    json.dumps({"tokenizer_class": "ByT5Tokenizer"})
  )
  path = directory / "config.json"
  path.write_text(path.read_text().replace("{", '{\n  "bos_token_id": 3,', 1))
  return directory


@pytest.fixture(scope="module")
def run(byt5):
  assert convert(byt5, "run", byt5.parent / "run") == 0
  return byt5.parent / "run"


def test_two_do_not_write_into_one_directory(byt5, tmp_path, capsys):
  for to in ("hf", "run", "split"):
    with lock.directory(tmp_path / to):
      assert convert(byt5, to, tmp_path / to) == 2
      assert [path.name for path in (tmp_path / to).iterdir()] == [lock.NAME]
    said = capsys.readouterr().err
    assert f"--output={tmp_path}/{to} is being written by process" in said
    assert said.count("\n") == 1


def test_a_language_model_goes_on_as_transformers_does(tmp_path, capsys):
  import tokenizers
  import torch
  import transformers

  words = [f"w{i}" for i in range(40)]
  pieces = {w: i for i, w in enumerate(["<unk>", "<s>", "</s>", *words])}
  tokenizer = tokenizers.Tokenizer(
    tokenizers.models.WordLevel(pieces, unk_token="<unk>")
  )
  tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
  tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
  tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
    single="<s> $A", special_tokens=[("<s>", 1)]
  )
  theirs = transformers.LlamaForCausalLM(
    transformers.LlamaConfig(
      hidden_size=32, intermediate_size=48, num_attention_heads=4,
      num_hidden_layers=2, vocab_size=len(pieces), bos_token_id=1,
      eos_token_id=2,
    )
  ).eval()  # fmt: skip
  torch.manual_seed(1)
  with torch.no_grad():
    for p in theirs.parameters():
      p.add_(0.3 * torch.randn_like(p))
  source, run = tmp_path / "hf", tmp_path / "run"
  theirs.save_pretrained(source)
  tokenizer.save(str(source / "tokenizer.json"))
  (source / "tokenizer_config.json").write_text(
    json.dumps({"bos_token": "<s>", "eos_token": {"content": "</s>"}})
  )
  assert convert(source, "run", run) == 0
  capsys.readouterr()
  text = "w3 w14 w15 w9"
  infer = ["infer", f"--model_dir={run}", f"--text={text}", "--json"]
  assert main.main([*infer, "--max_new_tokens=8"]) == 0
  ours = json.loads(capsys.readouterr().out)
  ids = torch.tensor([[1, *(pieces[word] for word in text.split())]])
  whole = theirs.generate(ids, max_new_tokens=8, do_sample=False)
  out = whole[0, ids.shape[1] :]
  assert ours["prediction"] == tokenizer.decode(out.tolist())
  log_probs = theirs(whole).logits[0].log_softmax(-1)
  chosen = log_probs[ids.shape[1] - 1 : -1].gather(1, out[:, None])
  assert ours["log_likelihood"] == pytest.approx(chosen.sum().item(), abs=1e-3)


def test_a_language_model_may_come_with_sentencepiece(tmp_path, capsys):
  source, run = tmp_path / "hf", tmp_path / "run"
  model = tiny.with_vocab(tiny.llama(), 64)
  interop.save_hf(model, tiny.random_params(model), source)
  # With SentencePiece's own special ids: unk 0, bos 1, eos 2.
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a text of words", "and words of a text"] * 9),
    model_prefix=str(source / "tokenizer"), vocab_size=18, minloglevel=2,
  )  # fmt: skip
  (source / "tokenizer_config.json").write_text(
    json.dumps({"bos_token": "<s>", "eos_token": "</s>"})
  )
  assert convert(source, "run", run) == 0
  capsys.readouterr()
  infer = ["infer", f"--model_dir={run}", "--text=a text of", "--json"]
  assert main.main([*infer, "--max_new_tokens=1"]) == 0
  result = json.loads(capsys.readouterr().out)

  pieces = sentencepiece.SentencePieceProcessor(
    model_file=str(source / "tokenizer.model")
  )
  ids = np.array([[1, *pieces.encode("a text of")]], np.int32)
  logits = interop.load_hf(source).logits({
    "decoder_input_tokens": ids,
    "decoder_segment_ids": np.ones_like(ids),
    "decoder_positions": np.arange(ids.size, dtype=np.int32)[None],
  })  # fmt: skip
  # Only what the tokenizer has is drawn; p is the model's, of all its ids.
  expected = jax.nn.log_softmax(logits[0, -1])[: len(pieces)].max()
  assert result["log_likelihood"] == pytest.approx(float(expected), abs=1e-4)


@pytest.mark.parametrize("name", tiny.ALL)
def test_a_model_written_as_gin_is_built_again(tmp_path, name):
  model = tiny.ALL[name]()
  file = tmp_path / "model.gin"
  file.write_text(gin_writer.text(model))
  config.load([file])
  assert config.build(Model) == model


def test_bindings_reach_parts_that_were_written_as_defaults(tmp_path):
  file = tmp_path / "model.gin"
  file.write_text(gin_writer.text(tiny.llama()))
  bindings = ["heads.LMHead.tied=True", "attention.CoreAttention.sink=True"]
  config.load([file], bindings)
  transformer = config.build(Model).transformer
  assert transformer.lm_head.tied
  assert transformer.decoder.layer.attention.core.sink


def test_a_run_and_back_gives_the_same_files(byt5, run):
  back = run.parent / "back"
  assert convert(run, "hf", back) == 0
  assert weights(back) == weights(byt5)
  for name in ("config.json", "tokenizer_config.json"):
    there, here = (json.loads((d / name).read_text()) for d in (byt5, back))
    assert here == there


def test_a_split_and_back_gives_the_same_files(byt5, run):
  split, back = run.parent / "split", run.parent / "unsplit"
  assert convert(run, "split", split, "--tp=4", "--pp=2") == 0
  assert (split / "tensor_03_stage_001/model.safetensors").exists()
  assert convert(split, "hf", back) == 0
  assert weights(back) == weights(byt5)


def test_text_can_be_given_to_a_converted_run(run, capsys):
  infer = ["infer", f"--model_dir={run}", "--text=A ___ b", "--json"]
  assert main.main([*infer, "--max_new_tokens=3"]) == 0
  result = json.loads(capsys.readouterr().out)
  assert result["text"] == "A <extra_id_0> b" and "prediction" in result


@pytest.mark.parametrize("extra_ids", [100, 0])
def test_a_sentencepiece_model_goes_along(tmp_path, extra_ids):
  texts = [f"{a} and {b}" for a in range(60) for b in range(60)]
  pieces = sentencepiece_training.train(texts, vocab_size=280)
  model = tiny.t5()
  transformer = model.transformer.clone(vocab_size=380)
  model = dataclasses.replace(model, transformer=transformer)
  source, run = tmp_path / "hf", tmp_path / "run"
  interop.save_hf(model, tiny.random_params(model), source)
  (source / "spiece.model").write_bytes(pieces)
  settings = {} if extra_ids == 100 else {"extra_ids": extra_ids}
  (source / "tokenizer_config.json").write_text(json.dumps(settings))
  assert convert(source, "run", run) == 0
  vocabulary = json.loads((run / "vocabulary.json").read_text())
  assert vocabulary["size"] == 280 + extra_ids
  assert convert(run, "hf", tmp_path / "back") == 0
  assert (tmp_path / "back/spiece.model").read_bytes() == pieces


def test_weights_without_a_vocabulary_make_a_run_of_the_model(tmp_path, capsys):
  model = tiny.llama()
  interop.save_hf(model, tiny.random_params(model), tmp_path / "hf")
  assert convert(tmp_path / "hf", "run", tmp_path / "run") == 0
  assert "model and weights alone" in capsys.readouterr().err
  assert main.main(["describe", f"--model_dir={tmp_path}/run"]) == 0
  assert convert(tmp_path / "run", "hf", tmp_path / "back") == 0
  assert weights(tmp_path / "back") == weights(tmp_path / "hf")


def test_mistakes_are_one_line(byt5, run, tmp_path, capsys):
  bad = tmp_path / "bad"
  shutil.copytree(byt5, bad)
  (bad / "model.safetensors").write_bytes(b"12345678")
  empty = tmp_path / "empty"
  empty.mkdir()
  new = tmp_path / "new"
  for arguments, message in [
    ((empty, "hf", new), "is no run (config.gin in it), no Hugging Face"),
    ((bad, "run", new), "model.safetensors (8 bytes) is cut short"),
    ((byt5, "run", run), "holds a run"),
    ((byt5, "hf", byt5), "already"),
    ((byt5, "split", new, "--tp=3"), "cannot be shared by --tp=3"),
    (
      (byt5, "megatron", new),
      "--to=megatron: value should be one of <hf|run|split>",
    ),
    ((byt5, "hf", new, "--family=llama"), "llama cannot say"),
    ((byt5, "hf", new, "--family=x"), "--family=x is not supported"),
    (
      (byt5, "run", new, "--gin.stack.Stack.remat=full"),
      "change the converted model: transformer.encoder.remat",
    ),
  ]:
    assert convert(*arguments) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.startswith("t5x_lite: error: ")
    assert printed.count("\n") == 1
