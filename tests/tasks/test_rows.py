"""Rows of benchmarks give the right value, or one line with file and field."""

import dataclasses
import json
import math
import re

import pytest
import seqio
import tensorflow as tf

from t5x_lite import row_formats
from t5x_lite.data import Data
from t5x_lite.data.reader import Reader
from t5x_lite.evaluation.metrics import task_metrics
from tasks import sources
from tasks.evaluation import choices, json_rows, suites
from tasks.task import add_task
from tests.decoding.markov import Markov
from tests.tasks.streams import BYTES

SQUAD = {"question": "Who?", "context": "A game.", "id": "x"}
ARC = {"question": "Which?", "id": "q"}
ABC = {"text": ["x", "y", "z"], "label": ["A", "B", "C"]}
HELLASWAG = {"activity_label": "Sailing", "context": "He"}
ENDINGS = ["sails.", "sinks."]
MMLU = {"question": "2 + 2?", "subject": "math", "choices": list("3456")}
WSC = {
  "text": "Bob said he", "span1_text": "Bob", "span2_text": "he", "label": 1,
}  # fmt: skip


def read(tmp_path, task, *lines, split="validation"):
  """Returns the texts of the examples that a suite's task makes of JSON."""
  path = tmp_path / f"{split}.jsonl"
  path.write_text("".join(json.dumps(line) + "\n" for line in lines))
  (entry,) = (suite[task] for suite in suites.SUITES.values() if task in suite)
  benchmark = entry.benchmark
  source = json_rows.JsonRows(task, {split: str(path)}, benchmark.read_row)
  task = seqio.Task(
    "read",
    source=source,
    output_features=benchmark.output_features(BYTES),
    preprocessors=list(benchmark.preprocessors()),
  )
  lengths = {"inputs": 400, "targets": 40}
  dataset = task.get_dataset(lengths, split, shuffle=False)
  return [
    {
      key: value.decode() if isinstance(value, bytes) else value
      for key, value in row.items()
    }
    for row in dataset.as_numpy_iterator()
  ]


def right(found):
  return [x["targets_pretokenized"] for x in found if x.get("is_correct")]


@pytest.mark.parametrize(
  "answers", [[[], ["a dog", "dogs"]], [["a dog", "dogs"], []], [[], []]]
)
def test_a_question_may_have_no_answer(tmp_path, answers):
  found = read(
    tmp_path,
    "squad_v1",
    *(SQUAD | {"answers": {"text": x, "answer_start": [0] * len(x)}}
      for x in answers),
  )  # fmt: skip
  assert [x["targets_pretokenized"] for x in found] == [
    of[0] if of else "unanswerable" for of in answers
  ]
  assert [x["answers"].tolist() for x in found] == [
    [text.encode() for text in of] for of in answers
  ]


@pytest.mark.parametrize(
  ("task", "row", "answer"),
  [
    ("arc_easy", ARC | {"choices": ABC, "answerKey": "B"}, "y"),
    (
      "arc_easy",
      ARC | {"choices": ABC | {"label": ["1", "2", "3"]}, "answerKey": "3"},
      "z",
    ),
    (
      "arc_easy",
      ARC | {"choices": ABC | {"label": [0, 1, 2]}, "answerKey": 0},
      "x",
    ),
    ("hellaswag_all", HELLASWAG | {"endings": ENDINGS, "label": "1"}, "sinks."),
    ("hellaswag_all", HELLASWAG | {"endings": ENDINGS, "label": 0}, "sails."),
    ("mmlu_all", MMLU | {"answer": 1}, "B"),
    ("mmlu_all", MMLU | {"answer": "3"}, "D"),
  ],
)
def test_answers_may_be_numbers_or_texts(tmp_path, task, row, answer):
  assert right(read(tmp_path, task, row)) == [answer]


def test_labels_of_both_kinds_may_stand_in_one_file(tmp_path):
  numbers = ABC | {"label": ["1", "2", "3"]}
  found = read(
    tmp_path,
    "arc_easy",
    ARC | {"choices": ABC, "answerKey": "B"},
    ARC | {"choices": numbers, "answerKey": "1"},
    ARC | {"choices": {"text": ["p", "q"], "label": [1, 2]}, "answerKey": 2},
  )
  assert right(found) == ["y", "x", "q"]


@pytest.mark.parametrize(
  ("task", "row", "target"),
  [
    ("super_glue_boolq", {"question": "q", "passage": "p", "label": True},
     "True"),
    ("super_glue_cb",
     {"premise": "p", "hypothesis": "h", "label": "contradiction"},
     "contradiction"),
    ("glue_sst2", {"sentence": "s", "label": -1}, "<unk>"),
    ("glue_stsb", {"sentence1": "a", "sentence2": "b", "label": 3}, "3.0"),
    ("lambada_all", {"text": "one two\nthree four \n"}, "four"),
  ],
)  # fmt: skip
def test_labels_may_be_as_their_authors_publish_them(
  tmp_path, task, row, target
):
  (found,) = read(tmp_path, task, row)
  assert found["targets_pretokenized"] == target


@pytest.mark.parametrize(
  ("task", "row", "message"),
  [
    ("squad_v1", SQUAD | {"answers": [{"text": "a", "answer_start": 1}]},
     "no field 'answers/text': the row has question, context, id, answers"),
    ("squad_v1", SQUAD | {"answers": {"text": "1066"}},
     "field 'answers/text' ('1066') must be a list of texts with content"),
    ("squad_v1", SQUAD | {"answers": {"text": [3]}}, "field 'answers/text' (["),
    ("squad_v1", SQUAD | {"question": 3, "answers": {"text": ["a"]}},
     "field 'question' (3) must be a text with content"),
    ("arc_easy", ARC | {"choices": {"text": [], "label": []}, "answerKey": "A"},
     "field 'choices/text' ([]) must be a list of 1 or more texts"),
    ("arc_easy", ARC | {"choices": ABC, "answerKey": "1"},
     "field 'answerKey' ('1') must be one of A, B, C"),
    ("arc_easy", ARC | {"choices": ABC, "answerKey": ""},
     "field 'answerKey' ('') must be one of A, B, C"),
    ("arc_easy", ARC | {"choices": ABC | {"label": ["A"]}, "answerKey": "A"},
     "field 'choices/label' (['A']) must be a list of 3 different labels"),
    ("hellaswag_all", HELLASWAG | {"endings": ENDINGS, "label": ""},
     "field 'label' ('') must be a number from 0 to 1"),
    ("hellaswag_all", HELLASWAG | {"endings": ENDINGS, "label": 2},
     "field 'label' (2) must be a number from 0 to 1"),
    ("hellaswag_all", HELLASWAG | {"endings": ENDINGS, "label": -1},
     "field 'label' (-1) must be a number from 0 to 1"),
    ("hellaswag_all", HELLASWAG | {"endings": ["a", " "], "label": 0},
     "field 'endings' (['a', ' ']) must be a list of 1 or more texts with"),
    ("mmlu_all", MMLU | {"answer": "B"}, "field 'answer' ('B') must be a num"),
    ("mmlu_all", MMLU | {"choices": ["1"], "answer": 0},
     "field 'choices' (['1']) must be a list of 4 texts"),
    ("glue_sst2", {"sentence": "s", "label": 2},
     "field 'label' (2) must be a number from 0 to 1, -1 for unlabelled, or"),
    ("glue_sst2", {"sentence": ["s"], "label": 1}, "field 'sentence' (['s'])"),
    ("glue_sst2", {"label": 1}, "no field 'sentence': the row has label"),
    ("glue_stsb", {"sentence1": "a", "sentence2": "b", "label": "3"},
     "field 'label' ('3') must be a number"),
    ("hellaswag_all", HELLASWAG | {"endings": ["a", "[b]"], "label": 0},
     "field 'endings' (['a', '[b]']) must be a list of texts with more than"),
    ("glue_stsb", {"sentence1": "a", "sentence2": "b", "label": math.nan},
     "field 'label' (nan) must be a number"),
    ("glue_stsb", {"sentence1": "a", "sentence2": "b", "label": math.inf},
     "field 'label' (inf) must be a number"),
    ("super_glue_wsc", WSC | {"span2_index": 3},
     "field 'span2_index' (3) must be a number from 0 to 2"),
    ("super_glue_wsc", WSC | {"span2_index": -1},
     "field 'span2_index' (-1) must be a number from 0 to 2"),
    ("lambada_all", {"passage": "word "},
     "field 'passage' ('word') must have at least two words"),
    ("wmt_ende", {"en": "a", "de": ["b"]}, "field 'de' (['b']) must be a text"),
  ],
)  # fmt: skip
def test_what_cannot_be_asked_is_said_in_a_line(tmp_path, task, row, message):
  with pytest.raises(ValueError, match=re.escape(message)) as error:
    read(tmp_path, task, row)
  assert f"{tmp_path}/validation.jsonl, line 1: " in str(error.value)
  assert "\n" not in str(error.value)


def test_the_row_is_named_and_other_splits_are_read(tmp_path):
  row = HELLASWAG | {"endings": ENDINGS}
  files = {}
  for split, labels in {"validation": ["0", "1"], "test": ["0", ""]}.items():
    files[split] = str(tmp_path / f"{split}.jsonl")
    with open(files[split], "w") as file:
      file.writelines(json.dumps(row | {"label": x}) + "\n" for x in labels)
  source = json_rows.JsonRows("h", files, choices.read_hellaswag)
  found = source.get_dataset("validation", shuffle=False)
  assert [x["label"].numpy() for x in found] == [0, 1]
  with pytest.raises(ValueError, match=r"test.jsonl, line 2: field 'label' "):
    source.get_dataset("test")


def test_a_question_without_a_right_choice_is_no_traceback():
  # From a source that nothing has checked, as TFDS.
  def ask(example):
    is_right = tf.range(2) == example["label"]
    return example["text"], tf.constant(["a", "bbb"]), is_right

  columns = {"text": ["x", "y"], "label": [1, -1]}
  name = add_task(
    "rows_unlabelled",
    source=sources.MemorySource("rows", {"validation": columns}),
    objective=choices.multiple_choice(ask),
    vocabulary=BYTES,
  )
  try:
    spec = Data(
      task=name, lengths={"inputs": 8, "targets": 4}, batch_size=2,
      split="validation", shuffle=False, num_epochs=1,
    )  # fmt: skip
    message = "task rows_unlabelled: .*question.* 1 .*one must be"
    with pytest.raises(ValueError, match=message) as error:
      list(Reader(spec, row_formats.CAUSAL).batches())
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=message):
      task_metrics(Markov(), {}, Reader(spec, row_formats.CAUSAL))
    # A choice is never cut: what is left of it would be scored.
    short = dataclasses.replace(spec, lengths={"inputs": 8, "targets": 3})
    with pytest.raises(ValueError, match="targets have 4 tokens.*length 3"):
      list(Reader(short, row_formats.CAUSAL).batches())
  finally:
    seqio.TaskRegistry.remove(name)
