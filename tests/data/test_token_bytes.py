"""The bytes of tokens, joined, are the text that the vocabulary decodes."""

import random

import pytest

from t5x_lite.data import recorded_vocabulary, token_bytes
from t5x_lite.inference import stop_strings
from tests.tasks import kinds

SUITABLE = [
  kind
  for kind in kinds.KINDS
  if kind not in (kinds.word_piece, kinds.plain_bytes)
]


@pytest.mark.parametrize("kind", SUITABLE)
def test_bytes_of_tokens_are_those_of_decoded_text(kind, tmp_path):
  original = kind(tmp_path / "vocabulary")
  record = recorded_vocabulary.write(original, tmp_path)
  plain = recorded_vocabulary.read(record, tmp_path)
  found = token_bytes.token_bytes(plain)
  assert found == token_bytes.token_bytes(original)
  assert len(found.first) == len(found.later) == plain.vocab_size
  assert found.later[plain.eos_id] == found.first[plain.eos_id] == b""
  # As text is encoded, and in any other order that is text.
  rng, compared = random.Random(0), 0
  begins = [i for i, text in enumerate(found.first) if text]
  others = [i for i, text in enumerate(found.later) if text]
  texts = [plain.encode(kinds.TEXT), plain.encode(kinds.TEXT.replace(" ", ""))]
  texts += [
    [rng.choice(begins), *rng.choices(others, k=rng.randrange(6))]
    for _ in range(2000)
  ]
  for ids in texts:
    if not all(found.later[i] for i in ids):
      continue  # Unknown characters are not text.
    joined = found.first[ids[0]] + b"".join(found.later[i] for i in ids[1:])
    try:
      text = joined.decode()
    except UnicodeDecodeError:
      continue
    compared += 1
    assert plain.decode(ids) == text
  assert compared > 100


@pytest.mark.parametrize("kind", [kinds.word_piece, kinds.plain_bytes])
def test_a_vocabulary_whose_tokens_have_no_text_of_their_own_is_refused(
  kind, tmp_path
):
  with pytest.raises(ValueError, match="regex and json_schema need one of"):
    token_bytes.token_bytes(kind(tmp_path / "vocabulary"))
  # Texts of such tokens are cut at stop strings when they are complete.
  assert stop_strings.stops(("a",), kind(tmp_path / "vocabulary")) is None
