"""The suite without download: right answers, fixed examples, apart splits."""

import numpy as np
import pytest
import seqio

import tasks  # noqa: F401 - registers.
from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.evaluation import evaluate, held_out
from t5x_lite.inference import infer
from tasks import text
from tasks.evaluation import offline
from tests import tiny

LENGTHS = {"inputs": 128, "targets": 64}
NAMES = [task.name for task in seqio.MixtureRegistry.get("offline").tasks]


def rows_of(name, split="validation"):
  columns = seqio.TaskRegistry.get(name).source.made.columns[split]
  return [
    dict(zip(columns, row, strict=True))
    for row in zip(*columns.values(), strict=True)
  ]


SOLVE = {
  "offline_copy": lambda inputs: inputs,
  "offline_reverse": lambda inputs: inputs[::-1],
  "offline_sort": lambda inputs: " ".join(sorted(inputs.split())),
  "offline_addition": lambda inputs: str(eval(inputs)),
}


@pytest.mark.parametrize("name", SOLVE)
def test_exercises_have_right_answers_and_stand_in_one_split(name):
  train, validation = rows_of(name, "train"), rows_of(name)
  assert len(train) == 4096 and len(validation) == 256
  for row in train[:300] + validation:
    _, inputs = row["inputs"].split(": ")
    assert SOLVE[name](inputs) == row["targets"]
  assert len({row["inputs"] for row in train + validation}) == 4352


def test_blanks_filled_in_give_the_passage():
  rows = rows_of("offline_infilling")
  assert len(rows) > 50
  for row in rows:
    filled = row["targets"].split()
    passage = row["inputs"].split()
    assert filled[::2] == [w for w in passage if w.startswith("<extra_id_")]
    assert filled[::2] == [f"<extra_id_{i}>" for i in range(4)]
    assert len(passage) == 32


def test_the_right_choice_is_the_passage_s_own_and_anywhere():
  rows = rows_of("offline_continuation")
  held_out = offline.corpora.python_docs.made.columns["validation"]["text"]
  whole = {" ".join(words) for words in offline._passages(held_out, 256)}
  for row in rows:
    ends = [f"{row['passage']} {choice}" in whole for choice in row["choices"]]
    assert ends[row["answer"]] and len(set(row["choices"])) == 4
  places = [row["answer"] for row in rows]
  assert {places.count(i) * 4 // len(places) for i in range(4)} <= {0, 1}


def test_cloze_ends_in_a_word_of_letters():
  rows = rows_of("offline_cloze")
  assert len(rows) > 50
  for row in rows:
    *before, word = row["passage"].split()
    assert word.isalpha() and len(word) >= 4 and len(before) >= 8


@pytest.mark.parametrize("name", NAMES)
def test_the_vocabulary_gives_the_text_back_and_lengths_suffice(name):
  dataset = seqio.TaskRegistry.get(name).get_dataset(
    LENGTHS, "validation", shuffle=False
  )
  vocabulary = text.python_vocabulary()
  for row in dataset.take(40).as_numpy_iterator():
    is_scored = name in ("offline_cloze", "offline_continuation")
    assert (row["targets"][-1] == vocabulary.eos_id) != is_scored
    said = vocabulary.decode(row["targets"].tolist())
    expected = row["targets_pretokenized"].decode()
    assert "".join(said.split()) == "".join(expected.split())


def test_one_mixture_of_all_is_read_by_decoders_and_encoder_decoders():
  assert len(NAMES) == 7
  spec = Data(
    task="offline", lengths=LENGTHS, batch_size=8, split="train", pack=True
  )
  for architecture in ("encoder_decoder", "causal"):
    batch = next(Reader(spec, row_formats.ALL[architecture]).batches())
    assert batch["decoder_loss_weights"].any(axis=1).all()


@pytest.mark.slow
def test_a_model_is_measured_on_all_as_it_would_be_asked():
  model = tiny.prefix_lm(num_layers=1)
  model = tiny.with_vocab(model, text.python_vocabulary().vocab_size)
  params = tiny.random_params(model)
  spec = Data(
    task="offline", lengths=LENGTHS, batch_size=8, split="validation",
    shuffle=False, num_batches=3,
  )  # fmt: skip
  data = held_out.held_out([Reader(spec, row_formats.PREFIX)])
  found = evaluate.evaluate(model, params, data, max_new_tokens=4)
  names = {"loss", "perplexity", "accuracy", "tokens", "unigram_entropy"}
  for name in NAMES:
    own = {key for key in found if key.startswith(f"{name}/")}
    assert own > {f"{name}/{metric}" for metric in names - {"accuracy"}}
    assert all(np.isfinite(found[key]) for key in own)

  # The choices of six questions, scored as texts of a user.
  rows = rows_of("offline_continuation")[:6]
  codec = infer.codec(
    resolve("offline_continuation"), row_formats.PREFIX, LENGTHS
  )
  scored = infer.run(
    infer.Score(model=model, codec=codec),
    params,
    [
      {"inputs": row["passage"], "targets": choice}
      for row in rows
      for choice in row["choices"]
    ],
  )
  scores = np.array([row["log_likelihood"] for row in scored]).reshape(6, 4)
  right = scores.argmax(axis=1) == [row["answer"] for row in rows]
  assert found["offline_continuation/accuracy"] == pytest.approx(
    100 * right.mean()
  )


def test_of_continuations_the_right_ones_alone_are_learnt():
  names = [t.name for t in seqio.MixtureRegistry.get("offline_train").tasks]
  assert len(names) == 7 and "offline_continuation" not in names
  learnt, asked = (
    list(
      seqio.TaskRegistry.get(name)
      .get_dataset(LENGTHS, "validation", shuffle=False)
      .take(count)
      .as_numpy_iterator()
    )
    for name, count in (
      ("offline_right_continuation", 5),
      ("offline_continuation", 20),
    )
  )
  right = [x["targets"].tolist() for x in asked if x["is_correct"]]
  assert [x["targets"].tolist() for x in learnt] == right


def test_few_shot_exercises_stand_after_three_that_are_solved():
  lengths = {"inputs": 256, "targets": 32}
  mixture = seqio.MixtureRegistry.get("offline_few_shot")
  assert len(mixture.tasks) == 4
  for task in mixture.tasks:
    solve = SOLVE[task.name.removesuffix("_few_shot")]
    dataset = task.get_dataset(lengths, "validation", shuffle=False)
    for row in dataset.take(8).as_numpy_iterator():
      assert len(row["inputs"]) < 256
      *shots, asked = row["inputs_pretokenized"].decode().split("\n\n")
      assert len(set(shots)) == 3
      shots.append(f"{asked} {row['targets_pretokenized'].decode()}")
      for shot in shots:
        words = shot.partition(": ")[2].split()
        question = words[:3] if "+" in words else words[: len(words) // 2]
        answer = " ".join(words[len(question) :])
        assert solve(" ".join(question)) == answer
