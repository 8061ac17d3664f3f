"""A sentinel in a text is its one token, in Python's encoders and TensorFlow's.

And it is where the vocabulary has it: at the end, or wherever a file put it.
"""

import hypothesis
import pytest
import seqio
import tensorflow as tf
from hypothesis import strategies

from t5x_lite.data import sentinels as text_lib
from tasks import hf_vocabulary, sources, vocabularies
from tasks.bart import BART
from tasks.cm3 import CM3
from tasks.fim import FIM
from tasks.glm import GLM
from tasks.iid_denoising import IIDDenoising
from tasks.mass import MASS
from tasks.mlm import MLM
from tasks.pegasus import PEGASUS
from tasks.replaced_tokens import ReplacedTokens
from tasks.sentence_pairs import SentencePairs
from tasks.span_corruption import SpanCorruption
from tasks.ul2 import UL2
from tasks.vocabularies import Bytes, SentencePiece
from tests.tasks import sentencepiece_files, tokenizer_files

N = 12  # sentinels


def _model(change=None, **options):
  def make(folder):
    path = folder / "a.model"
    sentencepiece_files.train(path, **options)
    if change is not None:
      change(path)
    return SentencePiece(str(path), extra_ids=N)

  return make


def _tokenizer(kind):
  return lambda folder: hf_vocabulary.HuggingFaceTokenizer(
    tokenizer_files.write(kind, folder), extra_ids=N
  )


def _lossless(folder):
  source = sources.MemorySource(
    "s", {"train": {"text": sentencepiece_files.TEXT}}
  )
  del folder
  return vocabularies.TrainedSentencePiece([source], extra_ids=N)


add, named = sentencepiece_files.add, sentencepiece_files.named
KINDS = {
  "bytes": lambda folder: Bytes(extra_ids=N),
  "bytes_without": lambda folder: Bytes(extra_ids=0),
  "lossless": _lossless,
  "t5": _model(model_type="unigram"),
  "no_dummy_prefix": _model(
    add_dummy_prefix=False, remove_extra_whitespaces=False, model_type="bpe"
  ),
  "without": lambda folder: SentencePiece(
    sentencepiece_files.train(folder / "a.model"), extra_ids=0
  ),
  "own_bare": _model(user_defined_symbols=",".join(named(N)), vocab_size=120),
  "own_control": _model(control_symbols=",".join(named(N)), vocab_size=120),
  "own_as_mt5": _model(lambda path: add(path, *named(N, "▁"), "<later>")),
  "of_seqio": lambda folder: seqio.SentencePieceVocabulary(
    sentencepiece_files.train(folder / "a.model"), extra_ids=N
  ),
  "bytes_of_seqio": lambda folder: seqio.ByteVocabulary(extra_ids=N),
  **{
    kind: _tokenizer(kind)
    for kind in (
      "byte_level", "byte_level_with_prefix", "word_piece_uncased", "t5_like",
      "t5_like_with_flags", "mt5_like", "llama_like", "word_level",
      "xlm_r_like",
    )
  },
}  # fmt: skip
OF_SEQIO = ("of_seqio", "bytes_of_seqio")
WITHOUT = ("bytes_without", "without")


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
  return request.param


@pytest.fixture(scope="module")
def vocabulary(kind, tmp_path_factory):
  return KINDS[kind](tmp_path_factory.mktemp("vocabulary"))


@pytest.fixture(scope="module")
def encode_tf(vocabulary):
  graph = tf.function(vocabulary.encode_tf, autograph=False)
  signature = tf.TensorSpec([], tf.string)
  concrete = graph.get_concrete_function(signature)
  return lambda text: concrete(tf.constant(text)).numpy().tolist()


SENTINELS = strategies.integers(0, 4).map("<extra_id_{}>".format)
NONE = [
  "<extra_id_100>", "<extra_id_007>", "<extra_id_>", "<extra_id_-1>",
  "<extra_id_٣>", "<extra_id_0", "extra_id_0>", "<extra_id_12345678901234>",
  "<Extra_id_0>", "＜extra_id_0＞", "<extra_id_ 0>",
]  # fmt: skip
WORDS = [
  *sentencepiece_files.WORDS, " ", "  ", "\n", "\t", "▁", "\u00a0", "é", "漢",
  "🙂", ">", "<", "0", "un", "able",
]  # fmt: skip
PARTS = strategies.one_of(
  SENTINELS,
  strategies.sampled_from(WORDS),
  strategies.sampled_from(NONE),
  strategies.text(strategies.characters(exclude_categories=["Cs"]), max_size=3),
)
TEXTS = strategies.lists(PARTS, max_size=8).map("".join)

EXAMPLES = [
  "a list is <extra_id_0>", "<extra_id_0>", "<extra_id_0> a", " <extra_id_0>",
  "un<extra_id_0>able", "<extra_id_0><extra_id_1><extra_id_2><extra_id_3>x",
  "a\n<extra_id_1>\nb", "a\0<extra_id_0>\0", "\0", "a  <extra_id_1>  b",
  "a▁<extra_id_0>▁b",
  "x<extra_id_100>y<extra_id_0>", "<extra_id_007><extra_id_7>", "",
]  # fmt: skip


@pytest.fixture(scope="module")
def check(kind, vocabulary, encode_tf):
  sentinels = text_lib.sentinel_ids(vocabulary)

  def check(text):
    ids = list(vocabulary.encode(text))
    assert encode_tf(text) == ids
    numbers = [int(n) for n in text_lib.SENTINEL.findall(text)]
    known = [n for n in numbers if n < len(sentinels)]
    if kind not in OF_SEQIO and "＜" not in text:
      assert [i for i in ids if i in sentinels] == [sentinels[n] for n in known]
    if known == numbers or not sentinels:
      read = text_lib.encode(vocabulary, text)
      assert kind in OF_SEQIO or read == ids
      rest = iter(read)
      assert all(sentinels[n] in rest for n in known)
    else:
      with pytest.raises(ValueError, match="is not in the vocabulary"):
        text_lib.encode(vocabulary, text)

  return check


def test_encoders_agree_and_sentinels_are_one_token_each(check):
  for text in EXAMPLES:
    check(text)

  hypothesis.settings(
    max_examples=60, deadline=None, derandomize=True, database=None
  )(hypothesis.given(TEXTS)(check))()


@pytest.mark.parametrize(
  "kind",
  # Those whose vocabularies read sentinels.
  [kind for kind in KINDS if kind not in (*WITHOUT, "bytes_of_seqio")],
  indirect=True,
)
@pytest.mark.parametrize("place", [0, 2, 4])
def test_a_word_that_a_sentinel_stands_for_leaves_the_other_tokens(
  kind, vocabulary, place
):
  # What span corruption makes of the text.
  words = ["the", "cat", "sat", "on", "mat;"]
  whole = list(vocabulary.encode(" ".join(words)))
  counts = [
    len(vocabulary.encode(" ".join(words[:n]))) if n else 0 for n in range(6)
  ]
  words[place] = "<extra_id_0>"
  ids = list(vocabulary.encode(" ".join(words)))
  sentinel = text_lib.sentinel_ids(vocabulary)[0]
  start, end = counts[place], counts[place + 1]
  if kind == "bytes" and place:
    start += 1  # A byte of its own, the space stays.
  assert ids == [*whole[:start], sentinel, *whole[end:]]


@pytest.mark.parametrize("kind", ["lossless", "t5", "own_bare", "own_as_mt5"])
def test_the_rest_of_a_word_goes_on_after_a_sentinel(kind, tmp_path):
  vocabulary = KINDS[kind](tmp_path)
  pieces = vocabulary.tokenizer.EncodeAsPieces("Zürich")
  rest = pieces[1:]
  head = pieces[0].removeprefix("▁")
  ids = vocabulary.encode(f"{head}<extra_id_0>{''.join(rest)}")
  at = ids.index(vocabulary.sentinel_ids[0])
  tail = [vocabulary.tokenizer.IdToPiece(i) for i in ids[at + 1 :]]
  assert "".join(tail) == "".join(rest)


def test_a_run_s_own_model_gives_the_run_s_ids(tmp_path):
  run = _lossless(tmp_path)
  path = tmp_path / "vocabulary.model"
  path.write_bytes(run.sp_model)
  own = vocabularies.resolve(str(path))
  assert own.extra_ids == run.extra_ids == N
  assert own.vocab_size == run.vocab_size
  assert own.sentinel_ids == run.sentinel_ids
  assert own.sp_model == run.sp_model
  text = "the <extra_id_0> sat<extra_id_11>"
  assert own.encode(text) == run.encode(text)
  assert own.decode(own.encode(text)) == run.decode(run.encode(text))
  with pytest.raises(ValueError, match="ends in sentinels: pieces cannot"):
    SentencePiece(str(path), pieces=["new"]).encode("x")


def test_a_model_with_sentinels_but_the_first_is_refused(tmp_path):
  path = tmp_path / "a.model"
  sentencepiece_files.train(path)
  add(path, "<extra_id_1>", kind="USER_DEFINED")
  with pytest.raises(ValueError, match="numbers must start at 0"):
    SentencePiece(str(path)).encode("x")


@pytest.mark.parametrize("kind", ["lossless", "t5", "of_seqio"])
def test_the_mark_of_a_space_in_a_text_is_a_space(kind, tmp_path):
  vocabulary = KINDS[kind](tmp_path)
  for text in ("the▁cat", "the▁<extra_id_0>▁cat", "▁the"):
    spaced = text.replace("▁", " ")
    assert vocabulary.encode(text) == vocabulary.encode(spaced)
    assert vocabulary.encode_tf(text).numpy().tolist() == list(
      vocabulary.encode(spaced)
    )
    assert "▁" not in vocabulary.decode(vocabulary.encode(text))


@pytest.fixture(scope="module")
def plain_and_later(tmp_path_factory):
  """Like mT5's model: as it is, and with a token after its sentinels."""
  paths = [tmp_path_factory.mktemp("mt5") / f"{n}.model" for n in range(2)]
  for path in paths:
    sentencepiece_files.train(path)
    add(path, *named(N, "▁"))
  add(paths[1], "<later>")
  return [SentencePiece(str(path)) for path in paths]


_STARTS = tf.constant([1, 0, 0, 0] * 8)
_FITS = {"targets_length": 64}
OBJECTIVES = (
  (SpanCorruption(random_roll=True), {}),
  (UL2(mode_tokens={"R": 11, "S": 10, "X": 9}), {}),
  (MLM(noise_density=0.5), {}),
  (ReplacedTokens(), {}),
  (IIDDenoising(noise_density=0.5), {}),
  (MASS(), {}),
  (BART(), {"starts": _STARTS}),
  (PEGASUS(), {"starts": _STARTS, **_FITS}),
  (GLM(), _FITS),
  (CM3(mean_spans=3.0), {}),
  (FIM(rate=1.0), _FITS),
  (SentencePairs(), {"starts": _STARTS, "other": tf.range(3, 35)}),
)


@pytest.mark.parametrize(
  ("objective", "given"),
  OBJECTIVES,
  ids=[type(objective).__name__ for objective, _ in OBJECTIVES],
)
def test_objectives_use_sentinels_where_the_vocabulary_has_them(
  objective, given, plain_and_later
):
  # Text has the same ids in both vocabularies, and so have the sentinels.
  tokens = plain_and_later[1].encode("the cat sat on a mat; unable dogs " * 5)
  tokens = tf.constant(tokens[:32], tf.int32)
  first, second = (
    objective.corrupt(tokens, tf.constant([3, 4]), vocabulary, **given)
    for vocabulary in plain_and_later
  )
  sentinels = set(plain_and_later[1].sentinel_ids)
  seen = set()
  for name, value in first.items():
    assert value.numpy().tolist() == second[name].numpy().tolist(), name
    seen |= set(value.numpy().tolist()) & sentinels
  assert seen
