"""Too long texts are cut alike in training and by `infer --truncate`."""

import dataclasses

import numpy as np
import pytest
import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import Data, trimming
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.files.text_files import Record
from t5x_lite.inference import infer
from tasks import pairs, text_to_text, vocabularies
from tasks.evaluation.benchmark import Benchmark
from tasks.sources import MemorySource
from tasks.task import add_task
from tests.decoding.markov import Markov

BYTES = vocabularies.Bytes()
EOS = BYTES.eos_id
PAIRS = [
  {"inputs": "abcdefghij"[:i], "targets": "uvwxyz"[:j]}
  for i, j in ((10, 6), (10, 2), (4, 6), (3, 2), (0, 6), (10, 0), (1, 1))
]


@pytest.fixture(scope="module")
def tasks():
  """Registers pairs: instructions, prompts, and EOS from seqio's own step."""
  columns = {name: [pair[name] for pair in PAIRS] for name in PAIRS[0]}
  source = MemorySource("too_long", {"train": columns})
  for name, objective in {
    "cut_pairs": text_to_text.TextToText(
      inputs="{inputs}", targets="{targets}"
    ),
    "cut_prompts": Benchmark(
      examples=lambda ds: ds, pair=pairs.Joined(delimiter="")
    ),
  }.items():
    add_task(name, source=source, objective=objective, vocabulary=BYTES)
  seqio.TaskRegistry.add(
    "cut_appended",
    source,
    preprocessors=[
      seqio.preprocessors.tokenize,
      seqio.preprocessors.append_eos,
    ],
    output_features={
      name: seqio.Feature(BYTES, add_eos=True) for name in PAIRS[0]
    },
  )
  names = ("cut_pairs", "cut_prompts", "cut_appended")
  yield names
  for name in names:
    seqio.TaskRegistry.remove(name)


LENGTHS = [
  {"inputs": 6, "targets": 4},
  {"inputs": 12, "targets": 8, "decoder": 10},
  {"inputs": 6, "targets": 4, "decoder": 5},
  {"inputs": 6, "targets": 4, "decoder": 4},  # No room for inputs at times.
]


@pytest.mark.parametrize(
  ("architecture", "lengths"),
  # An encoder-decoder's sides share no row.
  list(
    zip(("encoder_decoder", "causal", "prefix", "causal"), LENGTHS, strict=True)
  ),
  ids=str,
)
def test_training_and_truncate_make_one_batch(tasks, architecture, lengths):
  records = [Record(f"pair {i}", pair) for i, pair in enumerate(PAIRS)]
  for task in tasks:
    spec = Data(
      task=task, lengths=lengths, batch_size=len(PAIRS), num_epochs=1,
      shuffle=False,
    )  # fmt: skip
    (trained,) = Reader(spec, row_formats.ALL[architecture]).batches()
    codec = infer.codec(
      resolve(task), row_formats.ALL[architecture], lengths, truncate=True
    )
    job = infer.Score(model=Markov(), codec=codec)
    scored = infer.batch(job, [job.encode(record) for record in records])
    assert trained.keys() == scored.keys()
    for name in trained:
      np.testing.assert_array_equal(trained[name], scored[name], name)


@pytest.mark.parametrize("lengths", LENGTHS[:3], ids=str)
def test_a_prompt_is_cut_as_inputs_beside_as_many_targets(tasks, lengths):
  for task in tasks:
    spec = Data(
      task=task, lengths=lengths, batch_size=1, num_epochs=1, shuffle=False
    )
    codec = infer.codec(
      resolve(task), row_formats.CAUSAL, lengths, truncate=True
    )
    examples = Reader(spec, row_formats.CAUSAL).examples().as_numpy_iterator()
    for pair, example in zip(PAIRS, examples, strict=True):
      count = len(example["targets"])
      if lengths.get("decoder", 99) <= count:
        continue  # Refused: no room for a prompt.
      job = infer.Generate(model=Markov(), codec=codec, max_new_tokens=count)
      made = job.encode(Record("a prompt", {"inputs": pair["inputs"]}))
      np.testing.assert_array_equal(made["inputs"], example["inputs"])


def test_the_cut_comes_before_eos_or_at_the_beginning_of_a_prompt(tasks):
  lengths = {"inputs": 12, "targets": 8, "decoder": 10}
  spec = Data(
    task="cut_pairs", lengths=lengths, batch_size=1, num_epochs=1,
    shuffle=False,
  )  # fmt: skip

  def first(task, **changes):
    changed = dataclasses.replace(spec, task=task, **changes)
    return next(
      Reader(changed, row_formats.PREFIX).examples().as_numpy_iterator()
    )

  # Seven targets leave room for two letters and EOS.
  assert first("cut_pairs")["inputs"].tolist() == [*BYTES.encode("ab"), EOS]
  assert first("cut_prompts")["inputs"].tolist() == BYTES.encode("hij")
  short = first("cut_appended", lengths={"inputs": 4, "targets": 3})
  assert short["inputs"].tolist() == [*BYTES.encode("abc"), EOS]
  assert short["targets"].tolist() == [*BYTES.encode("uv"), EOS]


def test_few_shot_prompts_lose_their_beginning_in_a_decoders_row():
  objective = text_to_text.TextToText(
    inputs="{inputs}=",
    targets="{targets}",
    shots=2,
    between=";",
    delimiter="",
  )
  columns = {"inputs": list("abc"), "targets": list("xyz")}
  source = MemorySource("shots", {"train": columns})
  name = add_task(
    "cut_shots", source=source, objective=objective, vocabulary=BYTES
  )
  lengths = {"inputs": 40, "targets": 4, "decoder": 8}
  spec = Data(
    task=name, lengths=lengths, batch_size=3, num_epochs=1, shuffle=False
  )
  try:
    asked = list(
      Reader(spec, row_formats.CAUSAL).examples().as_numpy_iterator()
    )
    codec = infer.codec(
      resolve(name), row_formats.CAUSAL, lengths, truncate=True
    )
  finally:
    seqio.TaskRegistry.remove(name)
  for letter, example in zip("abc", asked, strict=True):
    assert len(example["inputs"]) == 6
    question = BYTES.decode(example["inputs"])
    assert question.endswith(f";{letter}=")
  job = infer.Generate(model=Markov(), codec=codec, max_new_tokens=2)
  made = job.encode(Record("a prompt", {"inputs": f"a=x;b=y;{letter}="}))
  assert made["inputs"].tolist() == asked[-1]["inputs"].tolist()


def test_what_is_aligned_is_cut_where_its_tokens_are():
  def row(tokens):
    return tf.constant(tokens, tf.int32)

  feature = seqio.Feature(BYTES, add_eos=True)
  number = seqio.Feature(seqio.PassThroughVocabulary(2), add_eos=False)
  fitted = trimming.fit(
    {"targets": row([5, 6, 7, EOS]), "weights": row([1, 0, 0, 1])},
    {"targets": feature, "weights": number},
    {"targets": 3, "weights": 3},
  )
  assert {name: x.numpy().tolist() for name, x in fitted.items()} == {
    "targets": [5, 6, EOS], "weights": [1, 0, 1],
  }  # fmt: skip
