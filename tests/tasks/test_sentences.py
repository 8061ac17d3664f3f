"""Sentences are found in the tokens of the whole text, which stay the same."""

import os
import random

import numpy as np
import pytest
import seqio
import tensorflow as tf

from tasks import offsets, sentences, windows
from tests.tasks import kinds
from tests.tasks.streams import BYTES

# Each is a sentence to a reader, with the white space after it.
READ = (
  ["The cat sat. ", "Did it? ", "It did!  ", "Then..."],
  ['She said "Go!" ', "“Why not?” ", "(Because.) ", "He left."],
  ["A title\n\n", "A text of 3.14 lines\nand e.g. ", "more.\n", "End"],
  ["Кошка спит. ", "Кто там? ", "Никого… ", "Да"],
  ["猫が寝ています。", "静かだ！", "「本当？」", "はい。"],
  ["بعد ذلك؟ ", "نعم. ", "बिल्ली सो रही है। ", "हाँ।"],
  ["One\x00. ", "\x00Two\x00\x01! ", "\x01\x00\x02three."],
  ["👩‍💻 x\N{COMBINING ACUTE ACCENT}. ", "ﬁne ½. ", "𝔗𝔴𝔬."],
)
_FRAGMENTS = [
  *"aTo3é猫я👩𝔗ﬁ½\x00\x01\x02\u0301\u200d▁", *".!?\"')]”。？", *"  \n\n\t ",
  "the cat", " sat.", "\n\n", ". ", "! ", "<extra_id_0>", "<pad>", "[UNK]",
]  # fmt: skip


def random_texts(count):
  rng = random.Random(0)
  return [
    "".join(rng.choices(_FRAGMENTS, k=rng.randrange(12))) for _ in range(count)
  ]


@pytest.fixture(scope="module", params=kinds.KINDS)
def vocabulary(request, tmp_path_factory):
  return request.param(tmp_path_factory.mktemp("kinds") / "tokenizer.json")


def rows(vocabulary, texts):
  """Yields the tokens of each text and the first tokens of its sentences."""
  dataset = tf.data.Dataset.from_tensor_slices({"text": texts})
  features = {"targets": seqio.Feature(vocabulary)}
  for row in sentences.encode(dataset, features).as_numpy_iterator():
    assert row["targets"].shape == row["starts"].shape
    yield row["targets"].tolist(), np.flatnonzero(row["starts"]).tolist()


def test_the_tokens_are_those_of_the_whole_text(vocabulary):
  texts = ["".join(text) for text in READ] + random_texts(150)
  dataset = tf.data.Dataset.from_tensor_slices({"text": texts})
  features = {"targets": seqio.Feature(vocabulary)}
  whole = windows.encode(dataset, features).as_numpy_iterator()
  for text, row, (tokens, starts) in zip(
    texts, whole, rows(vocabulary, texts), strict=True
  ):
    assert tokens == row["targets"].tolist(), repr(text)
    if "<extra_id" not in text:
      assert tokens == list(vocabulary.encode(text)), repr(text)
    assert starts[:1] == [0][: len(tokens)], repr(text)


def test_sentences_begin_where_a_reader_begins_them(vocabulary):
  texts = ["".join(text) for text in READ]
  found = rows(vocabulary, texts)
  for text, (tokens, starts) in zip(READ, found, strict=True):
    assert len(starts) == len(text), text
    for i, start in enumerate(starts):
      # As many as what is before has for itself, but for white space.
      before = vocabulary.encode("".join(text[:i]))
      count = len(os.path.commonprefix([before, tokens]))
      assert not vocabulary.decode(tokens[count:start]).strip(), text


def test_other_kinds_and_sentinels_are_found_by_what_is_before(monkeypatch):
  texts = ["".join(text) for text in READ]
  expected = list(rows(BYTES, texts))
  monkeypatch.setattr(offsets, "_WITH_BYTES", {})
  assert list(rows(BYTES, texts)) == expected
  monkeypatch.undo()
  (tokens, starts), *_ = rows(BYTES, ["One <extra_id_0>. Two"])
  assert BYTES.decode(tokens[starts[1] :]) == "Two"
