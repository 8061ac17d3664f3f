"""Plain vocabularies, as a run records them, have the ids of seqio's."""

import functools
import random

import pytest
import tensorflow as tf

from t5x_lite.data import recorded_vocabulary
from t5x_lite.data import sentinels as text_lib
from tasks import converted, vocabularies
from tests.tasks import kinds, tokenizer_files

# Ranges of characters: Latin, Greek, Cyrillic, Hebrew, Arabic, Devanagari,
# Thai, Georgian, Hangul, kana, CJK, private use, emoji, mathematical letters,
# controls, spaces, combining marks, variation selectors and tags.
_RANGES = (
  (0x20, 0x7F), (0xA0, 0x250), (0x370, 0x400), (0x400, 0x500), (0x590, 0x600),
  (0x600, 0x700), (0x900, 0x980), (0xE00, 0xE80), (0x10A0, 0x1100),
  (0x1100, 0x1200), (0x3040, 0x3100), (0x4E00, 0x9FFF), (0xAC00, 0xD7A4),
  (0xE000, 0xE010), (0x1F300, 0x1F600), (0x1D400, 0x1D7FF), (0x01, 0x20),
  (0x7F, 0xA0), (0x2000, 0x2070), (0x300, 0x370), (0xFE00, 0xFE10),
  (0xE0020, 0xE0080), (0xFFF0, 0x10000),
)  # fmt: skip
_WORDS = (
  "<extra_id_0>", "<extra_id_1>", " <extra_id_2> ", "un<extra_id_0>able",
  "<extra_id_007>", "<extra_id_500>", "</s>", "<pad>", "<unk>", "[UNK]",
  "<|endoftext|>", "<0x41>", "▁", "▁the", " ", "  ", "\n", "\t", "\r\n",
  "\u2028", "\ufeff", "é", "e\u0301", "ﬁ", "①", *kinds.TEXT.split(),
)  # fmt: skip


@functools.cache
def texts(count):
  """Returns random texts of many scripts, and some known to be difficult."""
  rng, found = random.Random(0), ["", " ", "<extra_id_0>", kinds.TEXT]
  while len(found) < count - 2:
    parts = []
    for _ in range(rng.randrange(8)):
      if rng.random() < 0.4:
        parts.append(rng.choice(_WORDS))
      else:
        low, high = rng.choice(_RANGES)
        size = rng.randrange(1, 7)
        parts.append(
          "".join(chr(rng.randrange(low, high)) for _ in range(size))
        )
    found.append(rng.choice(("", " ")).join(parts))
  return [*found, "a" * 5000, kinds.TEXT * 40]


def recorded(vocabulary, folder):
  record = recorded_vocabulary.write(vocabulary, folder)
  return recorded_vocabulary.read(record, folder)


KINDS = [kind for kind in kinds.KINDS if kind is not kinds.plain_bytes]


@pytest.mark.parametrize(
  "count", [400, pytest.param(10_000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", KINDS, ids=lambda one: one.__name__)
def test_ids_and_texts_are_those_of_seqio_and_tensorflow(kind, count, tmp_path):
  (run := tmp_path / "run").mkdir()
  theirs = kind(tmp_path / "file")
  ours = recorded(theirs, run)
  dataset = tf.data.Dataset.from_tensor_slices(texts(count))
  dataset = dataset.map(theirs.encode_tf, num_parallel_calls=2)
  rng = random.Random(1)
  for text, in_tf in zip(
    texts(count), dataset.as_numpy_iterator(), strict=True
  ):
    ids = list(theirs.encode(text))
    assert list(ours.encode(text)) == ids == in_tf.tolist(), text
    assert ours.decode(ids) == theirs.decode(ids)
    drawn = [rng.randrange(theirs.vocab_size + 9) for _ in range(5)]
    assert ours.decode(drawn) == theirs.decode(drawn), drawn
  for name in ("vocab_size", "eos_id", "unk_id", "extra_ids"):
    assert getattr(ours, name) == getattr(theirs, name), name
  assert text_lib.sentinel_ids(ours) == text_lib.sentinel_ids(theirs)
  assert (text_lib.known_ids(ours) == text_lib.known_ids(theirs)).all()


def test_ids_around_a_converted_models_text_are_recorded(tmp_path):
  ids = {"start_id": 4, "eos_id": 5, "begin_id": 6, "bare_prompts": True}
  made = recorded(converted.Bytes(extra_ids=3, **ids), tmp_path)
  assert {name: getattr(made, name) for name in ids} == ids
  assert made.vocab_size == 262 and made.encode("a") == [100]


def test_settings_of_a_tokenizer_json_are_recorded(tmp_path):
  (run := tmp_path / "run").mkdir()
  path = kinds.word_piece(tmp_path / "file").path
  theirs = vocabularies.hf_vocabulary.HuggingFaceTokenizer(
    path, extra_ids=3, eos="[SEP]", start="[CLS]", pieces=["new"]
  )
  ours = recorded(theirs, run)
  assert (run / "vocabulary" / "tokenizer.json").exists()
  assert ours.start_id == theirs.start_id == 2
  assert ours.encode("a new cat") == theirs.encode("a new cat")
  assert ours.vocab_size == theirs.vocab_size


def test_the_file_beside_a_tokenizer_json_that_names_eos_is_recorded(tmp_path):
  (run := tmp_path / "run").mkdir()
  path = kinds.word_piece(tmp_path / "tokenizer.json").path
  (tmp_path / "config.json").write_text('{"eos_token_id": 2}')
  theirs = vocabularies.hf_vocabulary.HuggingFaceTokenizer(path, extra_ids=3)
  assert recorded(theirs, run).eos_id == theirs.eos_id == 2


def test_a_vocab_json_is_recorded_with_its_merges(tmp_path):
  (run := tmp_path / "run").mkdir()
  tokenizer_files.byte_level().model.save(str(tmp_path))
  theirs = vocabularies.hf_vocabulary.HuggingFaceTokenizer(
    tmp_path / "vocab.json", extra_ids=3, eos="a"
  )
  ids = theirs.encode("the cat")
  ours = recorded(theirs, run)
  for name in ("vocab.json", "merges.txt"):
    (tmp_path / name).unlink()
  assert ours.encode("the cat") == ids


def test_a_users_own_class_is_not_recorded(tmp_path):
  class Mine(vocabularies.Bytes):
    pass

  assert recorded_vocabulary.write(Mine(), tmp_path) is None


@pytest.mark.parametrize("change", ["edit", "remove"])
def test_a_file_that_has_changed_is_named(change, tmp_path):
  (run := tmp_path / "run").mkdir()
  record = recorded_vocabulary.write(kinds.t5_like(tmp_path / "file"), run)
  model = run / "vocabulary.model"
  if change == "edit":
    model.write_bytes(model.read_bytes()[:-1])
  else:
    model.unlink()
  with pytest.raises(ValueError, match=r"vocabulary\.model, of the run's"):
    recorded_vocabulary.read(record, run)
