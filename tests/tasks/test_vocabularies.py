"""Vocabularies restore text, know their sentinels, and train reproducibly."""

import gzip
import pathlib

import pytest
import seqio

from tasks import (
  corpora,
  sentencepiece_training,
  sources,
  vocabularies,
)
from tasks import (
  text as text_module,
)
from tasks.vocabularies import Bytes, SentencePiece, TrainedSentencePiece

TEXT = "\n\n".join(
  f"def function_{i}(argument):\n    return argument + {i}  # Ü"
  for i in range(99)
)


def source(name="some text", text=TEXT):
  return sources.MemorySource(name, {"train": {"text": [text]}})


SOURCE = source()


@pytest.fixture(scope="module")
def trained():
  return TrainedSentencePiece([SOURCE], num_pieces=340, extra_ids=10)


@pytest.fixture(params=["pieces", "bytes"])
def vocabulary(request, trained):
  return trained if request.param == "pieces" else Bytes()


@pytest.mark.parametrize(
  "text",
  [
    "plain words",
    "  spaces   kept  ",
    "lines\n\n    and indentation\n",
    "\ttabs, Zürich, 漢字, \u2028 and 🙂",
    "",
  ],
)
def test_what_is_encoded_decodes_to_the_same_text(vocabulary, text):
  ids = vocabulary.encode(text)
  assert vocabulary.decode(ids) == text
  assert vocabulary.encode_tf(text).numpy().tolist() == list(ids)


@pytest.mark.parametrize(
  "text", ["a <extra_id_0> b<extra_id_1>", "f(<extra_id_2>)"]
)
def test_sentinels_may_stand_anywhere(vocabulary, text):
  ids = vocabulary.encode(text)
  first = vocabulary.vocab_size - 1
  numbers = [int(part.split(">")[0]) for part in text.split("<extra_id_")[1:]]
  assert [first - i for i in ids if first - i < 10] == numbers
  decoded = vocabulary.decode(ids).replace(" ", "")
  assert decoded == text.replace(" ", "")


def test_a_lone_surrogate_is_refused(vocabulary):
  for text in ("good \ud83d day", "a <extra_id_0>\udc80"):
    with pytest.raises(ValueError, match="^the text has a lone surrogate"):
      vocabulary.encode(text)


def test_bytes_without_sentinels_come_back():
  vocabulary = Bytes(extra_ids=0)
  assert vocabulary.decode(vocabulary.encode("abc")) == "abc"


def test_decoders_start_from_the_piece_that_is_named(trained):
  path = trained.sentencepiece_model_file
  assert SentencePiece(path).start_id == 0
  started = SentencePiece(path, start="</s>")
  assert started.start_id == started.eos_id == 1
  assert started != SentencePiece(path)
  with pytest.raises(ValueError, match="no piece '<s>' to start from"):
    _ = SentencePiece(path, start="<s>").start_id


def test_decoding_stops_at_the_first_end(vocabulary):
  ids = [*vocabulary.encode("ab"), vocabulary.eos_id, *vocabulary.encode("c")]
  assert vocabulary.decode(ids) == "ab"


def test_ids_beyond_the_vocabulary_are_no_text():
  assert Bytes().decode([100, 384, 500, 101]) == "ab"


def test_sizes_are_explicit(trained):
  assert trained.vocab_size == 350
  assert Bytes().vocab_size == 384
  assert (trained.pad_id, trained.eos_id, trained.unk_id) == (0, 1, 2)
  assert vocabularies.ordinary_ids(trained) == (3, 340)
  assert vocabularies.ordinary_ids(Bytes()) == (3, 259)


def test_nothing_is_trained_before_it_is_used():
  class Unreadable:
    def training_text(self, limit_bytes):
      raise AssertionError("read")

  vocabulary = TrainedSentencePiece([Unreadable()])
  seqio.Feature(vocabulary)
  assert "TrainedSentencePiece" in repr(vocabulary)
  with pytest.raises(AssertionError, match="read"):
    _ = vocabulary.vocab_size


def test_equal_texts_train_equal_models_that_are_cached(trained):
  again = TrainedSentencePiece([SOURCE], num_pieces=340, extra_ids=10)
  assert again == trained and hash(again) == hash(trained)
  assert again.sentencepiece_model_file == trained.sentencepiece_model_file
  fresh = sentencepiece_training.train([TEXT], vocab_size=340)
  kept = pathlib.Path(trained.sentencepiece_model_file).read_bytes()
  assert fresh == kept
  assert TrainedSentencePiece([SOURCE], num_pieces=339) != trained


def test_a_small_text_gives_a_small_vocabulary_unless_a_size_is_asked_for():
  small = source("small", "ab abc abd abe " * 3)
  assert 260 < TrainedSentencePiece([small], extra_ids=0).vocab_size < 300
  with pytest.raises(ValueError, match="vocab_size .500. is too large .* most"):
    TrainedSentencePiece([small], num_pieces=500).load_model()


def test_names_are_resolved(trained):
  assert vocabularies.resolve("bytes") == Bytes()
  path = trained.sentencepiece_model_file
  assert vocabularies.resolve(path).vocab_size == 440
  assert vocabularies.resolve(trained) is trained
  with pytest.raises(ValueError, match="vocabulary .'byte'. must be 'bytes'"):
    vocabularies.resolve("byte")


def test_a_missing_model_is_named():
  vocabulary = SentencePiece("nowhere.model")
  with pytest.raises(ValueError, match="no SentencePiece model at 'nowhere"):
    vocabulary.load_model()


def test_sentinels_within_a_model_count(trained, tmp_path):
  # As in mT5, whose model has them already.
  path = tmp_path / "with_sentinels.model"
  path.write_bytes(trained.sp_model)
  vocabulary = SentencePiece(str(path), extra_ids=0)
  assert vocabulary.vocab_size == trained.vocab_size
  assert vocabularies.num_sentinels(vocabulary) == 10


def test_descriptions_are_alike_in_every_process(trained):
  for vocabulary in (
    trained, Bytes(), SentencePiece("a.model"), seqio.ByteVocabulary(),
  ):  # fmt: skip
    assert " at 0x" not in vocabularies.identity(vocabulary)


@pytest.fixture
def text_file(tmp_path):
  path = tmp_path / "text.txt.gz"
  path.write_bytes(gzip.compress(TEXT.encode()))
  return str(path)


def test_the_command_trains_on_files_and_says_how_it_goes(text_file, tmp_path):
  lines = []
  path = sentencepiece_training.train_sentencepiece(
    text_file, str(tmp_path / "own"), vocab_size=340, report=lines.append
  )
  assert path.endswith("own.model")
  assert SentencePiece(path).vocab_size == 440
  assert "read 1 of 1 files" in lines[0] and path in lines[-1]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"vocab_size": 9000}, "vocab_size .9,000. is too large .* at most [0-9]"),
    ({"vocab_size": 100}, "vocab_size .100. is too small"),
    ({"vocab_size": 340, "model_type": "word"}, "must be 'bpe' or 'unigram'"),
    ({"vocab_size": 340, "files": "no.txt"}, "no such text file: 'no.txt'"),
    ({"vocab_size": 340, "output": "no/where/x"}, "no writable folder"),
  ],
)
def test_a_failed_training_writes_nothing(
  text_file, tmp_path, options, message, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  arguments = {"files": text_file, "output": "own.model"} | options
  with pytest.raises(ValueError, match=message) as error:
    sentencepiece_training.train_sentencepiece(
      arguments.pop("files"),
      arguments.pop("output"),
      **arguments,
      report=lambda line: None,
    )
  assert "\n" not in str(error.value)
  assert [path.name for path in tmp_path.iterdir()] == ["text.txt.gz"]


def test_the_shared_vocabulary_has_1024_ids_and_suits_both_corpora():
  vocabulary = text_module.python_vocabulary()
  assert vocabulary.vocab_size == 1024
  held_out = corpora.python_docs.made.columns["validation"]["text"]
  text = "".join(held_out)
  assert len(text) / len(vocabulary.encode(text)) > 2.0


def test_new_pieces_keep_all_other_ids_of_text(trained):
  path = trained.sentencepiece_model_file
  old = SentencePiece(path, extra_ids=5)
  new = SentencePiece(path, extra_ids=5, pieces=["qwerty", "as df"])
  assert new.vocab_size == old.vocab_size + 2
  assert new.encode("def function") == old.encode("def function")
  first = old.vocab_size - 5
  assert new.encode("xqwerty")[-1] == first
  assert first + 1 in new.encode("x as df")
  assert new.encode_tf("xqwerty").numpy()[-1] == first
  text = "argument qwerty<extra_id_0>as df 1"
  assert new.decode(new.encode(text)).replace(" <", "<") == text
  assert new.encode("x <extra_id_0>")[-1] == new.vocab_size - 1
  assert old != new and hash(old) != hash(new)
  assert new == SentencePiece(path, extra_ids=5, pieces=["qwerty", "as df"])
  for pieces in (["\n"], ["new", "new"], [""]):
    with pytest.raises(ValueError, match="must be new and distinct"):
      SentencePiece(path, pieces=pieces).encode("x")
  with pytest.raises(ValueError, match="has a lone surrogate"):
    SentencePiece(path, pieces=["a\ud83d"]).encode("x")
