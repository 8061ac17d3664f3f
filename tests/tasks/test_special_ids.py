"""A special id that a vocabulary lacks is missed in one line, never as -1."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import seqio

from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data import sentinels as text_lib
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.inference import infer
from tasks import hf_vocabulary, sources, vocabularies, windows
from tasks.causal_lm import CausalLM
from tasks.cm3 import CM3
from tasks.fim import FIM
from tasks.glm import GLM
from tasks.mlm import MLM
from tasks.prefix_lm import PrefixLM
from tasks.span_corruption import SpanCorruption
from tasks.task import add_task
from tasks.text_to_text import TextToText
from tasks.vocabularies import SentencePiece
from tests.decoding.markov import Markov
from tests.tasks import sentencepiece_files, tokenizer_files

LENGTHS = {"inputs": 16, "targets": 16}
TEXTS = sentencepiece_files.TEXT[:4]


def without_eos(folder):
  return SentencePiece(sentencepiece_files.train(folder / "a.model", eos_id=-1))


def of_seqio_without_eos(folder):
  return seqio.SentencePieceVocabulary(
    sentencepiece_files.train(folder / "a.model", eos_id=-1), extra_ids=20
  )


def tokenizer_without_eos(folder):
  return hf_vocabulary.HuggingFaceTokenizer(
    tokenizer_files.write("word_level", folder)
  )


class Words(seqio.UnigramVocabulary):
  """A vocabulary of a user's own, without an end and without sentinels."""

  def __init__(self, folder):
    del folder
    super().__init__(sentencepiece_files.WORDS, split_on_space=True)


@pytest.fixture(
  params=[without_eos, of_seqio_without_eos, tokenizer_without_eos, Words]
)
def vocabulary(request, tmp_path):
  return request.param(tmp_path)


@dataclasses.dataclass(frozen=True)
class Plain:
  """Reads documents and ends them with nothing."""

  metric_fns = ()
  postprocess_fn = None

  def output_features(self, vocabulary):
    return {"targets": seqio.Feature(vocabulary, add_eos=False)}

  def preprocessors(self):
    return (*windows.encoded(), _cut)


def _cut(dataset, sequence_length):
  return windows.cut(dataset, sequence_length["targets"])


@pytest.fixture
def task(vocabulary):
  names = []

  def add(objective, vocabulary=vocabulary):
    columns = {"train": {"text": TEXTS}, "validation": {"text": TEXTS}}
    names.append(
      add_task(
        f"special_{len(names)}",
        source=sources.MemorySource("s", columns),
        objective=objective,
        vocabulary=vocabulary,
      )
    )
    return names[-1]

  yield add
  for name in names:
    seqio.TaskRegistry.remove(name)


@pytest.mark.parametrize(
  ("objective", "architecture"),
  [
    (CausalLM(), "causal"),
    (SpanCorruption(), "encoder_decoder"),
    (PrefixLM(), "prefix"),
    (CM3(), "causal"),
    (FIM(), "causal"),
    (GLM(), "prefix"),
    (TextToText(inputs="{text}", targets="{text}"), "causal"),
    (MLM(), "encoder"),
  ],
  ids=lambda value: type(value).__name__ * (not isinstance(value, str)),
)
def test_an_objective_that_ends_texts_says_that_nothing_ends_them(
  objective, architecture, task, vocabulary
):
  name = task(objective)
  lengths = dict.fromkeys(resolve(name).features, 16)
  spec = Data(task=name, lengths=lengths, batch_size=2)
  with pytest.raises(ValueError, match="needs an end of sequence") as error:
    Reader(spec, row_formats.ALL[architecture]).batches()
  message = str(error.value)
  assert "\n" not in message and "eos=..." in message


def test_an_objective_that_appends_none_needs_no_end(task, vocabulary):
  assert text_lib.eos_id(vocabulary) is None
  name = task(Plain())
  spec = Data(task=name, lengths={"targets": 16}, batch_size=2, num_epochs=1)
  for batch in Reader(spec, row_formats.CAUSAL).batches():
    for side in ("decoder_input_tokens", "decoder_target_tokens"):
      assert batch[side].min() >= 0
      assert batch[side].max() < vocabulary.vocab_size
  # What is read at the command line has no end either, and decodes.
  codec = infer.codec(resolve(name), row_formats.CAUSAL, {"targets": 16})
  ids = codec.encode("targets", "the cat", "here", 16)
  assert len(ids) and ids.min() >= 0
  assert codec.decode([*ids, 0]).startswith(codec.decode(ids))


def test_generation_without_an_end_stops_at_the_length_only(task, vocabulary):
  name = task(Plain())
  job = infer.Generate(
    model=Markov(architecture="causal"),
    codec=infer.codec(resolve(name), row_formats.CAUSAL, {"targets": 12}),
    max_new_tokens=5,
  )
  size = vocabulary.vocab_size
  params = {"log_probs": jnp.full((size, size), -np.log(size))}
  (result,) = infer.run(job, params, [{"inputs": "the cat"}])
  assert result["num_tokens"] == 5


@pytest.mark.parametrize("of_seqio", [False, True])
def test_text_at_the_id_of_padding_is_refused(of_seqio, tmp_path):
  path = sentencepiece_files.train(
    tmp_path / "a.model", pad_id=-1, unk_id=2, eos_id=1,
    user_defined_symbols="the",
  )  # fmt: skip
  make = seqio.SentencePieceVocabulary if of_seqio else SentencePiece
  with pytest.raises(ValueError, match="at id 0, the id of padding") as error:
    text_lib.check_padding(make(path))
  assert "\n" not in str(error.value)


def test_an_end_at_the_id_of_padding_is_none(tmp_path):
  path = sentencepiece_files.train(
    tmp_path / "a.model", pad_id=-1, unk_id=1, eos_id=0
  )
  with pytest.raises(ValueError, match="has it at 0, the id of padding"):
    text_lib.require_eos(SentencePiece(path), "this")


def test_a_model_of_sentencepiece_s_own_defaults_is_read(tmp_path):
  # unk 0, <s> 1, </s> 2 and no padding: LLaMA's.
  path = sentencepiece_files.train(
    tmp_path / "a.model", pad_id=-1, unk_id=0, bos_id=1, eos_id=2
  )
  vocabulary = SentencePiece(path)
  assert text_lib.require_eos(vocabulary, "this") == 2
  ids = vocabulary.encode("the cat")
  assert vocabulary.decode([*ids, 2, *ids]) == "the cat"


def test_sentinels_that_lack_are_counted(tmp_path):
  vocabulary = Words(tmp_path)
  assert text_lib.sentinel_ids(vocabulary) == ()
  with pytest.raises(ValueError, match="needs 3 sentinels.* vocabulary's 0"):
    vocabularies.check_sentinels(vocabulary, 3, what="fim")
