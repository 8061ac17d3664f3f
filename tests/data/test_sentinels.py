"""Sentinels are one token each, and blanks can be filled in."""

import io

import pytest
import sentencepiece
import seqio

from t5x_lite.data import sentinels as text_lib
from tasks import vocabularies

WORDS = "thank you for inviting me to your jelly party last week".split()


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
  """A SentencePiece vocabulary with 10 sentinels."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter([" ".join(WORDS), " ".join(WORDS[::-1])] * 20),
    model_writer=model,
    vocab_size=60,
    hard_vocab_limit=False,
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  path = tmp_path_factory.mktemp("vocabulary") / "tiny.model"
  path.write_bytes(model.getvalue())
  return seqio.SentencePieceVocabulary(str(path), extra_ids=10)


BYTES = seqio.ByteVocabulary(extra_ids=10)


@pytest.fixture(params=["pieces", "bytes", "bytes that know sentinels"])
def vocabulary(request):
  if request.param == "bytes":
    return BYTES
  if request.param == "bytes that know sentinels":
    return vocabularies.Bytes(extra_ids=10)
  return request.getfixturevalue("pieces")


def sentinels(vocabulary, ids):
  last = vocabulary.vocab_size - 1
  return [last - i for i in ids if i > last - vocabulary.extra_ids]


@pytest.mark.parametrize(
  "text",
  [
    "thank you <extra_id_0> to your <extra_id_1>ly party",
    "<extra_id_0> you",
    "jel<extra_id_0> party <extra_id_1>",
    "<extra_id_0><extra_id_1>",
    "me\n<extra_id_1> <extra_id_0>",
  ],
)
def test_every_sentinel_is_one_token_wherever_it_stands(vocabulary, text):
  ids = text_lib.encode(vocabulary, text)
  expected = [int(part[0]) for part in text.split("<extra_id_")[1:]]
  assert sentinels(vocabulary, ids) == expected


def test_a_lone_surrogate_is_refused(vocabulary):
  for text in ("good \ud83d day", "<extra_id_0> \ud83d", "good\udc80"):
    with pytest.raises(ValueError, match="^the text has a lone surrogate"):
      text_lib.encode(vocabulary, text)


def test_a_cut_word_has_the_tokens_that_training_gives(pieces):
  jel = pieces.encode("jel")
  assert text_lib.encode(pieces, "jel<extra_id_0> party") == [
    *jel,
    pieces.vocab_size - 1,
    *pieces.encode("party"),
  ]


def test_decode_spells_sentinels_and_stops_before_eos(vocabulary):
  text = "<extra_id_0> me <extra_id_1>ly party"
  ids = text_lib.encode(vocabulary, text)
  ids += [vocabulary.eos_id, *vocabulary.encode("week")]
  assert text_lib.decode(vocabulary, ids) == text


@pytest.mark.parametrize(
  "vocabulary", [BYTES, vocabularies.Bytes(extra_ids=10)]
)
def test_bytes_outside_of_sentinels_are_untouched(vocabulary):
  text = "é\n<extra_id_9>x"
  assert text_lib.decode(vocabulary, text_lib.encode(vocabulary, text)) == text


def test_plain_text_may_hold_the_word_where_there_are_no_sentinels():
  plain = seqio.ByteVocabulary()
  ids = text_lib.encode(plain, "<extra_id_0>")
  assert len(ids) == len("<extra_id_0>")
  assert text_lib.decode(plain, ids) == "<extra_id_0>"


def test_a_sentinel_beyond_the_vocabulary_is_refused(vocabulary):
  with pytest.raises(ValueError, match="<extra_id_10>.* 10 sentinels"):
    text_lib.encode(vocabulary, "a <extra_id_10> b")


def test_fill_puts_each_span_into_its_blank(vocabulary):
  filled = text_lib.fill(
    vocabulary,
    "thank you <extra_id_0> me to your <extra_id_1> last week",
    "<extra_id_0> for inviting <extra_id_1> party",
    mark=("[", "]"),
  )
  # Bytes keep the spaces of both sides; pieces own theirs.
  assert " ".join(filled.split()) == (
    "thank you [for inviting] me to your [party] last week"
  )


def test_fill_joins_the_halves_of_a_word(vocabulary):
  filled = text_lib.fill(
    vocabulary, "your jel<extra_id_0> party", "<extra_id_0>ly", mark=("[", "]")
  )
  assert filled == "your jel[ly] party"


def test_fill_leaves_a_blank_without_prediction_and_ignores_strays(pieces):
  filled = text_lib.fill(
    pieces,
    "thank <extra_id_0> me <extra_id_1> week",
    "party <extra_id_1> last<extra_id_5> to",
  )
  assert filled == "thank <extra_id_0> me last week"


def test_fill_marks_a_blank_that_is_predicted_to_be_empty(pieces):
  filled = text_lib.fill(
    pieces,
    "thank <extra_id_0> me",
    "<extra_id_0> <extra_id_1>",
    mark=("[", "]"),
  )
  assert filled == "thank[] me"
