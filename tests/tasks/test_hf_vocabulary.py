"""tokenizer.json files, made here by `tokenizers`, as vocabularies of seqio."""

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.data.sentinels import known_ids
from tasks import sources, vocabularies
from tasks.hf_vocabulary import HuggingFaceTokenizer
from tasks.span_corruption import SpanCorruption
from tasks.task import add_task

TEXT = ["the cat sat on the mat", "the dog and the cat ran"] * 9
LENGTHS = {"inputs": 24, "targets": 10}


def bpe(path, specials=("<|endoftext|>",), first=()):
  """Trains a byte-level BPE whose id 0 is text, as GPT-2's."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  alphabet = pre_tokenizers.ByteLevel.alphabet()
  trainer = trainers.BpeTrainer(
    vocab_size=300, initial_alphabet=alphabet, special_tokens=list(first)
  )
  tokenizer.train_from_iterator(TEXT, trainer)
  tokenizer.add_special_tokens(list(specials))
  tokenizer.save(str(path))
  return str(path)


def word_piece(path):
  """Trains a WordPiece whose id 0 is [PAD], as BERT's."""
  tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
  tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
  tokenizer.decoder = decoders.WordPiece()
  trainer = trainers.WordPieceTrainer(
    vocab_size=60, special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
  )
  tokenizer.train_from_iterator(TEXT, trainer)
  tokenizer.save(str(path))
  return str(path)


@pytest.fixture(params=[bpe, word_piece])
def path(request, tmp_path):
  return request.param(tmp_path / "tokenizer.json")


def test_ids_are_the_file_s_up_to_the_offset(path):
  vocabulary = HuggingFaceTokenizer(path, extra_ids=5)
  theirs = tokenizers.Tokenizer.from_file(path)
  ids = theirs.encode("the cat", add_special_tokens=False).ids
  first_is_text = theirs.id_to_token(0) != "[PAD]"
  assert vocabulary.encode("the cat") == [i + first_is_text for i in ids]
  assert vocabulary.encode_tf("the cat").numpy().tolist() == [
    i + first_is_text for i in ids
  ]
  size = theirs.get_vocab_size() + first_is_text
  assert vocabulary.vocab_size == size + 5
  end = "<|endoftext|>" if first_is_text else "[SEP]"
  assert vocabulary.eos_id == theirs.token_to_id(end) + first_is_text


def test_a_lone_surrogate_is_refused(path):
  with pytest.raises(ValueError, match="^the text has a lone surrogate"):
    HuggingFaceTokenizer(path).encode("good \ud83d day")


def test_no_text_has_the_id_of_padding(path):
  vocabulary = HuggingFaceTokenizer(path, extra_ids=5)
  for piece in ("!", '"', *TEXT[:2], "[PAD]x", "zyx"):
    assert 0 not in vocabulary.encode(piece)


def test_text_comes_back_with_sentinels_and_ends_at_eos(path):
  vocabulary = HuggingFaceTokenizer(path, extra_ids=5)
  ids = vocabulary.encode("the <extra_id_0>cat<extra_id_1>")
  assert ids[-1] == vocabulary.vocab_size - 2
  text = vocabulary.decode([*ids, vocabulary.eos_id, *ids, 0])
  assert text.replace(" ", "") == "the<extra_id_0>cat<extra_id_1>"
  assert vocabulary.decode_tf(tf.constant(ids)).numpy().decode() == text
  assert vocabularies.num_sentinels(vocabulary) == 5


def test_text_comes_back_without_sentinels_too(path):
  vocabulary = HuggingFaceTokenizer(path, extra_ids=0)
  text = vocabulary.decode(vocabulary.encode("the cat"))
  assert text.split() == ["the", "cat"]


def test_decoders_start_from_the_token_that_is_named(path):
  assert HuggingFaceTokenizer(path).start_id == 0
  name = tokenizers.Tokenizer.from_file(path).id_to_token(7)
  vocabulary = HuggingFaceTokenizer(path, start=name)
  assert vocabulary.start_id == 7 + vocabulary.offset
  assert vocabulary != HuggingFaceTokenizer(path)
  with pytest.raises(ValueError, match="no token '<start>' to start from"):
    _ = HuggingFaceTokenizer(path, start="<start>").start_id


def test_what_is_no_text_may_have_the_id_of_padding(tmp_path):
  path = bpe(tmp_path / "t.json", first=["<s>", "</s>"])
  theirs = tokenizers.Tokenizer.from_file(path)
  assert theirs.token_to_id("<s>") == 0
  assert HuggingFaceTokenizer(path).offset == 0
  # But where texts end must not look like padding.
  path = bpe(tmp_path / "t.json", first=["<|endoftext|>"])
  assert HuggingFaceTokenizer(path).offset == 1


def test_random_tokens_are_text(path):
  vocabulary = HuggingFaceTokenizer(path, extra_ids=5)
  first, end = vocabularies.ordinary_ids(vocabulary)
  special = {0, vocabulary.eos_id, vocabulary.unk_id}
  assert not special & set(range(first, end))
  assert end - first > 20 and end <= vocabulary.vocab_size - 5


def test_sentinels_of_the_file_are_used(tmp_path):
  names = ["</s>", *(f"<extra_id_{i}>" for i in reversed(range(3)))]
  vocabulary = HuggingFaceTokenizer(bpe(tmp_path / "t.json", names))
  assert vocabulary.extra_ids == 3
  assert vocabulary.encode("<extra_id_0>") == [vocabulary.vocab_size - 1]
  assert vocabulary.decode([vocabulary.vocab_size - 3]) == "<extra_id_2>"
  grown = HuggingFaceTokenizer(str(tmp_path / "t.json"), pieces=["new"])
  with pytest.raises(ValueError, match="ends in sentinels: pieces cannot"):
    grown.encode("x")


def test_new_pieces_keep_all_other_ids_of_text(path):
  old = HuggingFaceTokenizer(path, extra_ids=5)
  new = HuggingFaceTokenizer(path, extra_ids=5, pieces=["qwerty", "asdf"])
  assert new.vocab_size == old.vocab_size + 2
  assert new.encode("the cat") == old.encode("the cat")
  assert new.encode("qwerty") == [old.vocab_size - 5]
  assert new.encode("<extra_id_0>") == [new.vocab_size - 1]
  assert old != new and hash(old) != hash(new)
  with pytest.raises(ValueError, match="must be new and distinct: qwerty|the"):
    HuggingFaceTokenizer(path, pieces=["the"]).encode("x")


def test_a_task_with_it_is_read_and_its_position_restored(path, tmp_path):
  source = sources.MemorySource("s", {"train": {"text": TEXT}})
  name = add_task(
    "of_tokenizer",
    source=source,
    objective=SpanCorruption(),
    vocabulary=vocabularies.resolve(path),
  )
  try:
    spec = Data(task=name, lengths=LENGTHS, batch_size=2)
    stream = Reader(spec, row_formats.ENCODER_DECODER).batches()
    stream.check_resumable()
    next(stream)
    stream.save(tmp_path)
    expected = next(stream)
    resumed = Reader(spec, row_formats.ENCODER_DECODER).batches()
    resumed.restore([tmp_path])
    for key, value in next(resumed).items():
      assert (value == expected[key]).all()
    assert len(resolve(name).vocabulary_digest) == 64
  finally:
    seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize(
  ("given", "message"),
  [
    ({"eos": "<end>"}, "has no token <end>: set its end of sequence"),
    ({"path": "no/tokenizer.json"}, "no tokenizer at 'no/tokenizer.json'"),
  ],
)
def test_what_cannot_be_read_is_said_in_a_line(path, given, message):
  with pytest.raises(ValueError, match=message) as error:
    _ = HuggingFaceTokenizer(**({"path": path} | given)).eos_id
  assert "\n" not in str(error.value)


def test_t5_s_kind_keeps_its_range_of_text():
  assert vocabularies.ordinary_ids(vocabularies.Bytes()) == (3, 259)


def test_ids_between_others_that_stand_for_no_token_are_known(tmp_path):
  known = {"[PAD]": 0, "[UNK]": 1, "the": 2, "cat": 5, "</s>": 7}
  model = models.WordLevel(known, unk_token="[UNK]")
  path = tmp_path / "tokenizer.json"
  tokenizers.Tokenizer(model).save(str(path))
  vocabulary = HuggingFaceTokenizer(str(path), extra_ids=2)
  assert vocabulary.unused_ids == {3, 4, 6}
  has_token = known_ids(vocabulary)
  assert np.flatnonzero(~has_token).tolist() == [3, 4, 6]
  assert len(has_token) == vocabulary.vocab_size == 10
  assert not HuggingFaceTokenizer(bpe(path)).unused_ids
