"""Templates with parts and shots, as arrays of text written by hand."""

import itertools

import pytest
import tensorflow as tf

from tasks import text_to_text
from tasks.text_to_text import TextToText

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
    (SUM | {"shots": -1}, r"shots \(-1\) must not be negative"),
    (SUM | {"inputs": ("a", "b")}, "inputs .'ab'. names no field"),
  ],
)
def test_settings_without_sense_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    TextToText(**settings)


def test_a_field_that_examples_lack_is_named():
  with pytest.raises(ValueError, match="names 'c', which examples lack: .* a,"):
    filled(TextToText(inputs=("{a}", "{c}"), targets="{b}"), *sums((1, 2)))
