"""Small examples of benchmarks, in TFDS's shape, and what t5 makes of them.

The package t5 is not needed by the tests: what it gives is in a golden file,
which `UPDATE_GOLDEN=1 pytest tests/tasks` makes anew where it is installed.
"""

import functools
import json
import os
import pathlib

import tensorflow as tf

from tests.tasks import t5_reference

GOLDEN = pathlib.Path(__file__).parent / "golden" / "t5_0_9_4_benchmarks.json"

_PAIR = {"premise": "It rains.", "hypothesis": "It is wet.", "idx": 7}
_SENTENCES = {"sentence1": "A cat sat.", "sentence2": "A cat slept.", "idx": 3}
_MULTIRC = {
  "paragraph": "<b>Sent 1: </b>A dog ran.<br>Sent 2: It fell.",
  "question": "Who ran?",
}
_WSC = {
  "text": "Bob asked Tom if he can lend some money .",
  "span1_text": "Tom", "span1_index": 2, "span2_text": "he", "span2_index": 4,
}  # fmt: skip

ROWS = {
  "glue_cola": [
    {"sentence": "Green sleeps.", "label": n, "idx": n} for n in (1, 0)
  ],
  "glue_sst2": [
    {"sentence": "A fine film.", "label": 1, "idx": 0},
    {"sentence": "Not labelled.", "label": -1, "idx": 1},
  ],
  "glue_mrpc": [_SENTENCES | {"label": 1}],
  "glue_qqp": [
    {"question1": "Why?", "question2": "Who?", "label": 1, "idx": 0}
  ],
  "glue_stsb": [_SENTENCES | {"label": x} for x in (3.75, 0.0, 5.0, 2.49)],
  "glue_mnli": [_PAIR | {"label": n} for n in (0, 1, 2)],
  "glue_mnli_mismatched": [_PAIR | {"label": 2}],
  "glue_qnli": [
    {"question": "Who?", "sentence": "Bob did.", "label": 0, "idx": 0}
  ],
  "glue_rte": [_SENTENCES | {"label": 1}],
  "super_glue_boolq": [
    {"question": "is it so", "passage": "It is.", "label": 1, "idx": 0}
  ],
  "super_glue_cb": [_PAIR | {"label": n} for n in (0, 1, 2)],
  "super_glue_copa": [
    {
      "premise": "I fell.", "choice1": "It hurt.", "choice2": "I slept.",
      "question": "effect", "label": 0, "idx": 0,
    }
  ],
  "super_glue_multirc": [
    _MULTIRC
    | {
      "answer": answer,
      "label": label,
      "idx": {"paragraph": 0, "question": question, "answer": number},
    }
    for number, (question, answer, label) in enumerate(
      [(0, "A dog", 1), (0, "A cat", 0), (1, "Nobody", 0)]
    )
  ],
  "super_glue_record": [
    {
      "passage": 'He said "no."\n@highlight\nBob left\n@highlight\nAnn stayed',
      "query": "@placeholder left.",
      "entities": ["Bob", "Ann"],
      "answers": answers,
      "idx": {"passage": 1, "query": query},
    }
    for query, answers in enumerate([["Bob", "Ann"], []])
  ],
  "super_glue_rte": [_PAIR | {"label": 0}],
  "super_glue_wic": [
    _SENTENCES
    | {"word": "cat", "label": 0, "start1": 2, "start2": 2}
  ],
  "super_glue_wsc_train": [_WSC | {"label": n, "idx": n} for n in (0, 1)],
  "super_glue_wsc": [_WSC | {"label": n, "idx": n} for n in (0, 1)],
  "squad_v1": [
    {
      "id": "x", "title": "T", "context": "The (old) town, in 1066.",
      "question": "When?  Where?",
      "answers": {"text": ["1066", "in 1066."], "answer_start": [19, 16]},
    }
  ],
  "cnn_dailymail_v3": [
    {"article": "Long. Text.", "highlights": "Short .\nText .", "id": "a"}
  ],
  "wmt_ende": [{"de": "Guten Tag , mein Freund", "en": "Good day"}],
  "wmt_enfr": [{"fr": "Bonjour , mon cher ami", "en": "Good day"}],
  "wmt_enro": [{"ro": "Salut , cum merge azi", "en": "Hello"}],
}  # fmt: skip

TRUTHS = ["The cat sat .", "a dog , barked . then left", "Tokyo, 1066"]
TEXTS = ["the cat sat down .", "a dog barked . it left", "tokyo 1066."]


def of_t5() -> dict:
  """Computes the golden file's contents."""
  t5 = t5_reference.load_t5()
  metrics = t5_reference.load_t5_module("evaluation", "metrics")
  labels, guesses = [0, 1, 1, 0, 1], [0, 1, 0, -1, 1]
  numbers, near = [0.0, 1.2, 3.4, 5.0], [0.4, 1.0, 5.0, 3.0]
  ranked = [
    ((question, choice), choice == right, 1.0, 2 + choice)
    for question, right in enumerate([0, 2, 1])
    for choice in range(3)
  ]
  scores = [-3.0, -3.5, -9.0, -2.0, -2.1, -2.2, -4.0, -1.0, -1.2]
  rank = metrics.rank_classification
  return {
    "examples": {
      task: [
        [row[key].decode() for key in ("inputs", "targets")]
        for row in _as_t5(t5, task).as_numpy_iterator()
      ]
      for task in ROWS
    },
    "metrics": {
      "accuracy": metrics.accuracy(labels, guesses),
      "f1": metrics.f1_score_with_invalid(labels, guesses),
      "matthews_correlation": {
        "matthews_corrcoef": metrics.sklearn_metrics_wrapper(
          "matthews_corrcoef", metric_post_process_fn=lambda x: 100 * x
        )(labels, guesses)["matthews_corrcoef"]
      },
      "mean_3class_f1": metrics.mean_multiclass_f1(3)(
        [0, 1, 2, 2, 1], [0, 2, 2, -1, 1]
      ),
      "correlations": {
        **metrics.pearson_corrcoef(numbers, near),
        **metrics.spearman_corrcoef(numbers, near),
      },
      "bleu": metrics.bleu(TRUTHS, TEXTS),
      "squad": metrics.squad([[t, "dog barked"] for t in TRUTHS], TEXTS),
      "rouge": metrics.rouge(TRUTHS, TEXTS),
      "rank_accuracy": {
        **rank(ranked, scores),
        "accuracy_per_token": rank(
          ranked, scores, normalize_by_target_length=True
        )["accuracy"],
      },
    },
  }


def _as_t5(t5, task: str) -> tf.data.Dataset:
  """Maps a benchmark's rows by the package's preprocessor."""
  name = task.split("glue_")[-1]
  glue = functools.partial(t5.glue, benchmark_name=name)
  rte = ["entailment", "not_entailment"]
  mnli = ["entailment", "neutral", "contradiction"]
  preprocessor = {
    "glue_cola": functools.partial(
      glue, label_names=["unacceptable", "acceptable"]
    ),
    "glue_sst2": functools.partial(glue, label_names=["negative", "positive"]),
    "glue_mrpc": functools.partial(
      glue, label_names=["not_equivalent", "equivalent"]
    ),
    "glue_qqp": functools.partial(
      glue, label_names=["not_duplicate", "duplicate"]
    ),
    "glue_stsb": t5.stsb,
    "glue_mnli": functools.partial(glue, label_names=mnli),
    "glue_mnli_mismatched": functools.partial(
      t5.glue, benchmark_name="mnli", label_names=mnli
    ),
    "glue_qnli": functools.partial(glue, label_names=rte),
    "glue_rte": functools.partial(glue, label_names=rte),
    "super_glue_cb": functools.partial(
      glue, label_names=["entailment", "contradiction", "neutral"]
    ),
    "super_glue_copa": functools.partial(
      glue, label_names=["choice1", "choice2"]
    ),
    "super_glue_multirc": functools.partial(
      glue,
      label_names=["False", "True"],
      feature_names=("question", "answer", "paragraph"),
    ),
    "super_glue_record": t5.record,
    "super_glue_rte": functools.partial(glue, label_names=rte),
    "super_glue_wic": functools.partial(
      glue,
      label_names=["False", "True"],
      feature_names=("sentence1", "sentence2", "word"),
    ),
    "super_glue_wsc_train": functools.partial(
      t5.wsc_simple, correct_referent_only=True
    ),
    "super_glue_wsc": t5.wsc_simple,
    "squad_v1": t5.squad,
    "cnn_dailymail_v3": functools.partial(
      t5.summarize, article_key="article", summary_key="highlights"
    ),
  }.get(task)
  if preprocessor is None and task.startswith("wmt"):
    preprocessor = functools.partial(
      t5.translate, source_language="en", target_language=task[-2:]
    )
  preprocessor = preprocessor or functools.partial(
    glue, label_names=["False", "True"]
  )
  one, *others = (
    preprocessor(tf.data.Dataset.from_tensors(_tensors(row)))
    for row in ROWS[task]
  )
  for other in others:
    one = one.concatenate(other)
  return one


def _tensors(row):
  if isinstance(row, dict):
    return {key: _tensors(value) for key, value in row.items()}
  return tf.constant(row, tf.string) if row == [] else tf.constant(row)


def golden() -> dict:
  """Reads the golden file, after renewing it if that is asked for."""
  if os.environ.get("UPDATE_GOLDEN"):
    GOLDEN.write_text(json.dumps(of_t5(), indent=1) + "\n")
  return json.loads(GOLDEN.read_text())
