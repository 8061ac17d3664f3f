"""Templates with parts and shots, as arrays of text written by hand."""

import itertools

import jax
import pytest
import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.evaluation import evaluate, held_out
from t5x_lite.inference import infer
from t5x_lite.optim.optimizers import AdamW
from t5x_lite.training import step
from tasks import sources, text_to_text
from tasks.task import add_task
from tasks.text_to_text import TextToText
from tests import tiny
from tests.tasks.streams import BYTES

INSTRUCTION = TextToText(
  inputs=("Task: {instruction}", "Input: {input}", "Answer:"),
  targets="{output}",
)


def filled(objective, *examples):
  dataset = tf.data.Dataset.from_tensor_slices(
    {key: [example[key] for example in examples] for key in examples[0]}
  )
  dataset = text_to_text.fill_templates(dataset, objective=objective)
  dataset = text_to_text.add_shots(
    dataset, shots=objective.shots, between=objective.between
  )
  return [
    (row["inputs"].decode(), row["targets"].decode())
    for row in dataset.as_numpy_iterator()
  ]


def test_parts_without_content_are_left_out():
  bird = {"instruction": "Name a bird.", "input": "", "output": "Wren"}
  count = {"instruction": "Count.", "input": "a a", "output": "2"}
  assert filled(INSTRUCTION, bird, count) == [
    ("Task: Name a bird.\n\nAnswer:", "Wren"),
    ("Task: Count.\n\nInput: a a\n\nAnswer:", "2"),
  ]


def sums(*pairs):
  return [{"a": a, "b": b, "sum": a + b} for a, b in pairs]


SUM = {"inputs": "{a}+{b}=", "targets": "{sum}"}
FOUR = sums((1, 1), (2, 5), (3, 1), (4, 4))


def test_each_example_has_the_others_of_its_group_as_shots():
  objective = TextToText(**SUM, shots=2)
  assert filled(objective, *sums((1, 1), (1, 2), (3, 4), (5, 5))) == [
    ("1+2= 3\n\n3+4= 7\n\n1+1=", "2"),
    ("3+4= 7\n\n1+1= 2\n\n1+2=", "3"),
    ("1+1= 2\n\n1+2= 3\n\n3+4=", "7"),
    ("5+5=", "10"),  # None is left to be its shot.
  ]


@pytest.mark.parametrize("shots", [0, 1, 3, 7])
def test_every_example_is_solved_once_and_never_shown_its_answer(shots):
  examples = sums(*itertools.product(range(4), range(10, 14)))
  rows = filled(TextToText(**SUM, shots=shots, between=" ; "), *examples)
  questions = [inputs.split(" ; ")[-1] for inputs, _ in rows]
  assert questions == [f"{e['a']}+{e['b']}=" for e in examples]
  for (inputs, _), question in zip(rows, questions, strict=True):
    assert inputs.count(" ; ") == shots
    assert inputs.count(question) == 1


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    (SUM | {"shots": -1}, r"shots \(-1\) must be at least 0"),
    (SUM | {"inputs": ("a", "b")}, "inputs .'ab'. has no field"),
    (SUM | {"inputs": "\ud83d{a}"}, r"'\\ud83d{a}' has a lone surrogate"),
    (SUM | {"targets": "{b}\udc00"}, r"\\udc00, as character 4"),
    (SUM | {"between": "\udce9"}, r"has a lone surrogate, \\udce9"),
    (SUM | {"delimiter": "\ud83d "}, r"has a lone surrogate, \\ud83d"),
    (SUM | {"labels": {"a": ("x", "\ud83d")}}, r"surrogate, \\ud83d, as cha"),
  ],
)
def test_settings_without_sense_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    TextToText(**settings)


def test_a_field_that_examples_lack_is_named():
  with pytest.raises(ValueError, match="the field 'c', but examples have a,"):
    filled(TextToText(inputs=("{a}", "{c}"), targets="{b}"), *sums((1, 2)))


@pytest.fixture
def prompts():
  """Sums, each after another that is solved; registered for one test."""
  columns = {key: [row[key] for row in FOUR] for key in FOUR[0]}
  source = sources.MemorySource(
    "sums", dict.fromkeys(("train", "test"), columns)
  )
  objective = TextToText(**SUM, shots=1)
  yield add_task(
    "sums_after_one", source=source, objective=objective, vocabulary=BYTES
  )
  seqio.TaskRegistry.remove("sums_after_one")


def test_long_prompts_lose_the_beginning_of_the_shots(prompts):
  task = seqio.TaskRegistry.get(prompts)
  rows = task.get_dataset({"inputs": 6, "targets": 3}, "test", shuffle=False)
  (row,) = rows.take(1)
  assert BYTES.decode(row["inputs"].numpy()) == "\n\n1+1="
  # As the answers of the shots: after a space, and no EOS before it.
  assert BYTES.decode(row["targets"].numpy()[:-1]) == " 2"
  assert row["targets"].numpy()[-1] == BYTES.eos_id


def test_a_model_learns_prompts_and_is_measured_on_them(prompts):
  model = tiny.with_vocab(tiny.palm(num_layers=1), BYTES.vocab_size)
  lengths = {"inputs": 16, "targets": 3}
  spec = Data(task=prompts, lengths=lengths, batch_size=4, shuffle=False)
  optimizer = AdamW(learning_rate=1e-2).build(model.logical_axes())
  state = step.init_state(model, optimizer, jax.random.key(0))
  learn = step.train_step(model, optimizer, dropout_key=jax.random.key(1))
  batch = next(Reader(spec, row_formats.CAUSAL).batches())
  state = tiny.jit(
    lambda state: jax.lax.fori_loop(
      0, 40, lambda _, state: learn(state, batch)[0], state
    )
  )(state)

  spec = Data(task=prompts, lengths=lengths, batch_size=4, split="test")
  data = held_out.held_out([Reader(spec, row_formats.CAUSAL)])
  metrics = evaluate.evaluate(model, state.params, data)
  # As a user would ask, with the prompts written out.
  job = infer.Generate(
    model=model,
    codec=infer.codec(resolve(prompts), row_formats.CAUSAL, lengths),
  )
  asked, truths = zip(*filled(TextToText(**SUM, shots=1), *FOUR), strict=True)
  said = infer.run(job, state.params, [{"inputs": text} for text in asked])
  pairs = zip(said, truths, strict=True)
  right = [row["prediction"] == f" {truth}" for row, truth in pairs]
  assert sum(right) >= 3
  assert metrics[f"{prompts}/sequence_accuracy"] == 25 * sum(right)
