"""Rows of benchmarks, and what lm-evaluation-harness asks and counts of them.

The package lm_eval is not needed by the tests: what it gives is in a golden
file, which `UPDATE_GOLDEN=1 pytest tests/tasks` makes anew where it is
installed.
"""

import json
import os
import pathlib
import tempfile

GOLDEN = pathlib.Path(__file__).parent / "golden" / "lm_eval_0_4_13.json"

# As on the Hugging Face hub.
ROWS = {
  "mmlu_all": [
    {
      "question": " What is 2 + 2? ", "choices": ["3", "4", "22", "5"],
      "answer": 1, "subject": "abstract_algebra",
    },
    {
      "question": "Où est Genève ?", "choices": ["ici", "là", "à Rome", "–"],
      "answer": 3, "subject": "abstract_algebra",
    },
  ],
  "arc_easy": [
    {
      "question": "Which flies?", "answerKey": "B", "id": "q",
      "choices": {"text": ["dog", "a bird", "fish"], "label": ["A", "B", "C"]},
    },
    {
      "question": "How many legs?", "answerKey": "4", "id": "r",
      "choices": {
        "text": ["1", "2", "3", "4"], "label": ["1", "2", "3", "4"],
      },
    },
  ],
  "hellaswag_all": [
    {
      "activity_label": "Sailing", "ctx_a": "He", "ctx_b": "", "ctx": "He",
      "endings": ["is at the helm.", "are at the helm.", "sinks.", "Eats it."],
      "label": "0",
    },
    {
      "activity_label": "Dog", "ctx_a": "A dog runs.", "ctx_b": "the Dog",
      "ctx": "A dog runs. the Dog", "label": "2",
      "endings": [
        "barks.", " sleeps  on", "[substeps] eats [x] it.", "ist müde",
      ],
    },
    {
      "activity_label": "Home and Garden", "label": "1",
      "ctx_a": "[header] How to plant [title] Dig  a   hole. [step]",
      "ctx_b": "", "ctx": "",
      "endings": ["Wait.", "[title] Water it. [step]", "Run [a", "b] away."],
    },
  ],
  "lambada_all": [
    {"text": "the cat  saw\nanother cat"},
    {"text": "\u201cWhere is it ?\u201d she asked Zoë"},
  ],
}  # fmt: skip

# Questions after two that are solved, and with other delimiters.
SHOTS = [{"a": 2, "b": 2, "sum": 4}, {"a": 1, "b": 2, "sum": 3}]
ASKED = {"a": 0, "b": 0, "sum": 0}
TEMPLATES = [
  {"inputs": "{a}+{b}=", "delimiter": " "},
  {"inputs": "Q: {a} and {b}\nA: ", "delimiter": " "},
  {"inputs": "{a}+{b}=", "delimiter": ""},
  {"inputs": "Sum {a} {b}", "delimiter": "\n"},
]

PAIRS = [
  ("Answer:", " A"),
  ("Answer: ", "A"),
  ("Answer: \n\t", "A"),
  ("He", "is at the helm."),
  ("une phrase\u00a0\u2003", "finie"),
  ("wor", "ds and more"),
  ("日本", "語"),
]

# Log-likelihoods of the choices of the rows above, made up.
SCORES = {
  "mmlu_all": [[-2.0, -1.0, -1.5, -3.0], [-2.0, -2.0, -2.0, -2.0]],
  "arc_easy": [[-3.0, -5.9, -4.1], [-1.0, -2.0, -3.0, -0.5]],
  "hellaswag_all": [
    [-15.0, -15.2, -5.0, -9.0],
    [-6.0, -9.0, -8.5, -8.4],
    [-6.0, -9.0, -5.0, -8.0],
  ],
}
GREEDY = [(-0.5, True), (-2.5, False)]


def of_harness() -> dict:
  """Computes the golden file's contents."""
  os.environ["HF_DATASETS_OFFLINE"] = "1"
  with tempfile.TemporaryDirectory() as folder:
    found = {name: _asked(name, folder) for name in ROWS}
    shots = [_few_shot(template, folder) for template in TEMPLATES]
  return {
    "requests": {name: asked for name, (asked, _) in found.items()},
    "metrics": {name: metrics for name, (_, metrics) in found.items()},
    "few_shot": shots,
    # Encoded apart, by an encoder that leaves texts as they are.
    "pairs": [_encoder()._encode_pair(*pair) for pair in PAIRS],
  }


def _asked(name, folder):
  """Returns [(context, continuation)] of each row, and the means of metrics."""
  published = {
    "mmlu_all": "mmlu/default/mmlu_abstract_algebra.yaml",
    "arc_easy": "arc/arc_easy.yaml",
    "hellaswag_all": "hellaswag/hellaswag.yaml",
    "lambada_all": "lambada/lambada_openai.yaml",
  }[name]
  task = _task(_published(published), ROWS[name], folder)
  asked, results = [], []
  for number, doc in enumerate(task.eval_docs):
    context = task.fewshot_context(doc, num_fewshot=0)
    made = task.construct_requests(doc, context)
    made = made if isinstance(made, list) else [made]
    asked.append([list(request.args) for request in made])
    scores = SCORES.get(name)
    said = [(x, False) for x in scores[number]] if scores else [GREEDY[number]]
    results.append(task.process_results(doc, said))
  aggregate = task.aggregation()
  return asked, {
    key: float(aggregate[key]([result[key] for result in results]))
    for key in results[0]
  }


def _published(path):
  import lm_eval
  from lm_eval.tasks import _yaml_loader

  folder = pathlib.Path(lm_eval.__file__).parent / "tasks"
  return _yaml_loader.load_yaml(folder / path, resolve_func=True)


def _task(config, rows, folder):
  from lm_eval.api.task import ConfigurableTask

  path = pathlib.Path(folder) / "rows.jsonl"
  path.write_text("".join(json.dumps(row) + "\n" for row in rows))
  splits = ("train", "validation", "test", "dev")
  files = {"data_files": {split: str(path) for split in splits}}
  config = {
    key: value
    for key, value in config.items()
    if key not in ("dataset_name", "tag", "include")
  }
  config |= {"dataset_path": "json", "dataset_kwargs": files}
  config |= {"dataset_name": None}
  metrics = config.get("metric_list", [])
  if config.get("output_type") == "multiple_choice":
    names = {metric["metric"] for metric in metrics}
    for name in ("acc_norm", "acc_bytes"):
      if name not in names:
        more = {"metric": name, "aggregation": "mean", "higher_is_better": True}
        metrics = [*metrics, more]
  return ConfigurableTask(config=config | {"metric_list": metrics})


def _few_shot(template, folder) -> list[str]:
  """Returns the prompt after SHOTS, and what is scored after it."""
  jinja = template["inputs"].replace("{", "{{").replace("}", "}}")
  task = _task(
    {
      "task": "sums",
      "output_type": "multiple_choice",
      "doc_to_text": jinja,
      "doc_to_choice": ["0", "1", "2", "3", "4"],
      "doc_to_target": "sum",
      "validation_split": "validation",
      "fewshot_split": "train",
      "fewshot_config": {"sampler": "first_n"},
      "target_delimiter": template["delimiter"],
    },
    [*SHOTS, ASKED],
    folder,
  )
  context = task.fewshot_context(ASKED, num_fewshot=len(SHOTS))
  return list(task.construct_requests(ASKED, context)[0].args)


def _encoder():
  from lm_eval.api.model import TemplateLM

  abstract = dict.fromkeys(TemplateLM.__abstractmethods__)
  made = type("Text", (TemplateLM,), abstract)()
  made.backend = "seq2seq"
  made.tok_encode = lambda text, **unused_options: text
  return made


def golden() -> dict:
  """Reads the golden file, after renewing it if that is asked for."""
  if os.environ.get("UPDATE_GOLDEN"):
    GOLDEN.write_text(json.dumps(of_harness(), indent=1) + "\n")
  return json.loads(GOLDEN.read_text())
