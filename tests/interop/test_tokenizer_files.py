"""What stands around a text is what `transformers` puts there."""

import json

import pytest
import sentencepiece

from t5x_lite.interop import tokenizer_files

SPECIAL = ["<unk>", "<s>", "</s>", "<x>", "<y>"]


def save(directory, template, model_type="llama", **settings):
  import tokenizers
  from tokenizers import models, pre_tokenizers, processors

  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  pieces = {piece: i for i, piece in enumerate([*SPECIAL, *letters])}
  tokenizer = tokenizers.Tokenizer(
    models.BPE(vocab=pieces, merges=[], unk_token="<unk>")
  )
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.add_special_tokens(SPECIAL)
  if isinstance(template, str):
    template = processors.TemplateProcessing(
      single=template, special_tokens=[(s, pieces[s]) for s in SPECIAL]
    )
  if template is not None:
    tokenizer.post_processor = template
  tokenizer.save(str(directory / "tokenizer.json"))
  write(directory, model_type, settings)


def write(directory, model_type, settings):
  config = {"model_type": model_type, "vocab_size": 300}
  (directory / "config.json").write_text(json.dumps(config))
  settings = {"bos_token": "<s>", "eos_token": "</s>", **settings}
  (directory / "tokenizer_config.json").write_text(json.dumps(settings))


def theirs(directory, text="a"):
  """Returns what their tokenizer makes of a text, but for the text."""
  import transformers

  tokenizer = transformers.AutoTokenizer.from_pretrained(directory)
  tokens = tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)
  (place,) = (i for i, token in enumerate(tokens) if token.strip("▁") == text)
  return tuple(tokens[:place]), tuple(tokens[place + 1 :])


def read(directory, *, pair=False, **options):
  return tokenizer_files.read(directory, is_encoder_decoder=pair, **options)


def _processors():
  from tokenizers import processors

  template = processors.TemplateProcessing(
    single="<x> $A", special_tokens=[("<x>", 3)]
  )
  byte_level = processors.ByteLevel(trim_offsets=False)
  return [
    None, "<s> $A", "<x> $A </s>", "$A </s> <y>", "<s> <x> $A", byte_level,
    processors.RobertaProcessing(("</s>", 2), ("<s>", 1)),
    processors.Sequence([byte_level, template]),
  ]  # fmt: skip


@pytest.mark.parametrize("number", range(8))
def test_the_post_processor_says_what_stands_around(tmp_path, number):
  save(tmp_path, _processors()[number], add_bos_token=True)
  found = read(tmp_path)
  assert (found.before, found.after) == theirs(tmp_path)
  found = read(tmp_path, ignore=["post_processor"])
  assert (found.before, found.after) == ((), ())


@pytest.mark.parametrize(
  ("model_type", "settings"),
  [
    ("gpt_neox", {}),
    ("gpt_neox", {"tokenizer_class": "GPTNeoXTokenizerFast"}),
    ("gpt_neox", {"tokenizer_class": "PreTrainedTokenizerFast"}),
    ("opt", {"tokenizer_class": "GPT2Tokenizer"}),
  ],
)
def test_a_class_may_leave_the_post_processor_out(
  tmp_path, model_type, settings
):
  save(tmp_path, "<s> $A", model_type, **settings)
  found = read(tmp_path)
  assert (found.before, found.after) == theirs(tmp_path)


@pytest.mark.parametrize("add_eos_token", [True, False])
@pytest.mark.parametrize("add_bos_token", [True, False])
def test_a_sentencepiece_model_goes_by_its_settings(
  tmp_path, add_bos_token, add_eos_token
):
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["a text of words", "and words of a text"] * 9),
    model_prefix=str(tmp_path / "tokenizer"), vocab_size=18, minloglevel=2,
  )  # fmt: skip
  (tmp_path / "tokenizer.vocab").unlink()
  adds = {"add_bos_token": add_bos_token, "add_eos_token": add_eos_token}
  write(tmp_path, "llama", adds)
  found = read(tmp_path)
  assert (found.before, found.after) == theirs(tmp_path)


@pytest.mark.parametrize("added", [False, True])
def test_the_map_of_special_tokens_wins_without_added_tokens(tmp_path, added):
  import transformers

  settings = {"added_tokens_decoder": {
    "2": {"content": "</s>", "special": True},
  }} if added else {}  # fmt: skip
  save(tmp_path, "<s> $A", **settings)
  (tmp_path / "special_tokens_map.json").write_text(
    json.dumps({"eos_token": {"content": "<y>"}, "bos_token": "<x>"})
  )
  expected = transformers.AutoTokenizer.from_pretrained(tmp_path)
  found = read(tmp_path)
  assert (found.bos, found.eos) == (expected.bos_token, expected.eos_token)
  assert found.eos == ("</s>" if added else "<y>")


def test_an_unknown_post_processor_is_refused_by_name(tmp_path):
  save(tmp_path, None)
  path = tmp_path / "tokenizer.json"
  tokenizer = json.loads(path.read_text())
  path.write_text(json.dumps({**tokenizer, "post_processor": {"type": "Odd"}}))
  with pytest.raises(ValueError, match="post_processor is 'Odd'.*--ignore="):
    read(tmp_path)


def test_a_directory_without_a_tokenizer_has_none(tmp_path):
  assert read(tmp_path) is None
  write(tmp_path, "llama", {})
  assert read(tmp_path) is None


def test_null_is_as_good_as_unsaid(tmp_path):
  save(tmp_path, "<s> $A")
  plain = read(tmp_path)
  nothing = dict.fromkeys(("tokenizer_class", "added_tokens_decoder"))
  write(tmp_path, "llama", nothing)
  assert read(tmp_path) == plain


def test_what_is_said_may_be_ignored(tmp_path):
  save(tmp_path, None, add_bos_token=True)
  assert tokenizer_files.options(tmp_path) == {"add_bos_token"}
  save(tmp_path, "<s> $A", add_eos_token=None)
  assert tokenizer_files.options(tmp_path) == {"post_processor"}
