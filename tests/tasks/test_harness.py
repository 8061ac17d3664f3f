"""Benchmarks ask and count as lm-evaluation-harness does, token by token."""

import pathlib

import numpy as np
import pytest
import seqio

from t5x_lite import row_formats
from t5x_lite.data import Data, sentinels
from t5x_lite.data.reader import Reader
from t5x_lite.data.resolved_task import resolve
from t5x_lite.evaluation.metrics import task_metrics
from t5x_lite.inference import infer
from tasks import pairs, sources, text_to_text, vocabularies
from tasks.evaluation import choices, generation, metrics
from tasks.evaluation.benchmark import Benchmark
from tasks.hf_vocabulary import HuggingFaceTokenizer
from tasks.mixtures import add_mixture
from tasks.task import add_task
from tasks.text_to_text import TextToText
from tests.decoding.markov import Markov
from tests.tasks import harness
from tests.tasks.streams import BYTES
from tests.tasks.test_hf_vocabulary import bpe

LENGTHS = {"inputs": 512, "targets": 64}
BENCHMARKS = {
  "mmlu_all": choices.MMLU,
  "arc_easy": choices.ARC,
  "hellaswag_all": choices.HELLASWAG,
  "lambada_all": generation.LAMBADA,
}


@pytest.fixture(scope="module")
def golden():
  return harness.golden()


@pytest.fixture(scope="module", params=["bytes", "pieces", "bpe"])
def vocabulary(request, tmp_path_factory):
  """Each kind: with a space before any text, without one, and bytes."""
  if request.param == "bytes":
    return BYTES
  if request.param == "bpe":
    path = tmp_path_factory.mktemp("bpe") / "tokenizer.json"
    return HuggingFaceTokenizer(bpe(path), extra_ids=5)
  prose = {"train": {"text": [pathlib.Path(__file__).read_text()]}}
  return vocabularies.TrainedSentencePiece(
    [sources.MemorySource("this file", prose)], num_pieces=420, extra_ids=5
  )


def cut(encode, context, continuation):
  """The harness's rule: TemplateLM._encode_pair, backend "causal"."""
  spaces = len(context) - len(context.rstrip())
  if spaces:
    continuation = context[-spaces:] + continuation
    context = context[:-spaces]
  ids = list(encode(context))
  return ids, list(encode(context + continuation))[len(ids) :]


def examples(objective, rows, vocabulary, lengths=LENGTHS):
  """Returns the examples that an objective makes of rows, as a task does."""
  columns = {name: [row[name] for row in rows] for name in rows[0]}
  task = seqio.Task(
    "asked",
    source=sources.MemorySource("rows", {"train": columns}),
    output_features=objective.output_features(vocabulary),
    preprocessors=list(objective.preprocessors()),
  )
  dataset = task.get_dataset(lengths, "train", shuffle=False)
  return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("name", BENCHMARKS)
def test_the_tokens_asked_for_are_those_of_the_harness(
  golden, vocabulary, name
):
  rows = [BENCHMARKS[name].read_row(flat(row)) for row in harness.ROWS[name]]
  asked = examples(BENCHMARKS[name], rows, vocabulary)
  requests = [pair for row in golden["requests"][name] for pair in row]
  for example, request in zip(asked, requests, strict=True):
    ids = example["inputs"].tolist(), example["targets"].tolist()
    assert ids == cut(vocabulary.encode, *request)


def flat(row, prefix=""):
  found = {}
  for key, value in row.items():
    nested = isinstance(value, dict)
    found |= flat(value, f"{prefix}{key}/") if nested else {prefix + key: value}
  return found


@pytest.mark.parametrize("number", range(len(harness.TEMPLATES)))
def test_shots_and_question_read_alike(golden, vocabulary, number):
  template = harness.TEMPLATES[number]
  objective = TextToText(targets="{sum}", shots=2, **template)
  # The shots of the third of three are the first two.
  *_, example = examples(objective, [*harness.SHOTS, harness.ASKED], vocabulary)
  context, continuation = golden["few_shot"][number]
  inputs, targets = cut(vocabulary.encode, context, continuation)
  assert example["inputs"].tolist() == inputs
  assert example["targets"].tolist() == [*targets, vocabulary.eos_id]


@pytest.mark.parametrize("architecture", ["causal", "encoder_decoder"])
def test_score_asks_for_the_tokens_of_one_text(
  golden, vocabulary, architecture
):
  feature = seqio.Feature(vocabulary, add_eos=False)
  codec = infer.Codec(
    row_format=row_formats.ALL[architecture], inputs=feature, targets=feature,
    lengths=LENGTHS, delimiter="",
  )  # fmt: skip
  job = infer.Score(model=Markov(architecture), codec=codec)
  for pair, (given, rest) in zip(harness.PAIRS, golden["pairs"], strict=True):
    record = dict(zip(("inputs", "targets"), pair, strict=True))
    found = job.encode(infer.Record("here", record))
    inputs, targets = cut(vocabulary.encode, *pair)
    assert found["inputs"].tolist() == inputs == vocabulary.encode(given)
    # Where a token reaches across the cut, no character may be lost.
    if architecture == "causal" or vocabulary.encode(pair[0] + pair[1])[
      : len(inputs)
    ] == list(inputs):
      assert found["targets"].tolist() == targets
    else:
      assert found["targets"].tolist() == list(vocabulary.encode(rest))


@pytest.mark.parametrize(
  ("inputs", "targets", "joined"),
  [
    ("He", "is at the helm.", ("He", " is at the helm.")),
    ("Answer: ", "A", ("Answer:", " A")),
    ("Answer:", " A", ("Answer:", " A")),
    ("Answer:\n", "A", ("Answer:", "\nA")),
    ("", "A", ("", "A")),
    ("Answer:", "", ("Answer:", "")),
  ],
)
def test_score_puts_one_delimiter_where_there_is_no_space(
  inputs, targets, joined
):
  feature = seqio.Feature(BYTES, add_eos=False)
  codec = infer.Codec(
    row_format=row_formats.CAUSAL,
    inputs=feature,
    targets=feature,
    lengths=LENGTHS,
  )
  found = codec.encode_pair(inputs, targets, "here")
  assert tuple(map(BYTES.decode, found)) == joined


def test_what_is_cut_of_inputs_is_not_the_end_that_is_continued():
  feature = seqio.Feature(BYTES, add_eos=False)
  codec = infer.Codec(
    row_format=row_formats.PREFIX, inputs=feature, targets=feature,
    lengths={"inputs": 4, "targets": 4}, truncate=True,
  )  # fmt: skip
  found = codec.encode_pair("a long text: so", "it is", "here")
  assert tuple(map(BYTES.decode, found)) == (": so", " it ")


def test_inputs_that_end_with_eos_are_a_text_of_their_own():
  codec = infer.Codec(
    row_format=row_formats.CAUSAL,
    inputs=seqio.Feature(BYTES, add_eos=True),
    targets=seqio.Feature(BYTES, add_eos=True),
    lengths=LENGTHS,
  )
  inputs, targets = codec.encode_pair("rte: a ", "yes", "here")
  assert inputs.tolist() == [*BYTES.encode("rte: a "), 1]
  assert targets.tolist() == [*BYTES.encode("yes"), 1]


def test_the_delimiter_is_the_task_s_or_the_user_s(registered):
  row = [{"a": "x", "b": "y", "sum": "z"}] * 2
  template = {"inputs": "{a}+{b}=", "targets": "{sum}"}
  for name, settings in (
    ("harness_line", {"shots": 1, "delimiter": "\n"}),
    ("harness_space", {"shots": 1}),
    ("harness_pair", {}),
  ):
    registered(name, TextToText(**template, **settings), row)

  def delimiter(*tasks, given=None):
    name = add_mixture("harness_both", dict.fromkeys(tasks, 1.0))
    try:
      codec = infer.codec(
        resolve(name), row_formats.CAUSAL, LENGTHS, delimiter=given
      )
    finally:
      seqio.MixtureRegistry.remove(name)
    return codec.delimiter

  assert delimiter("harness_line") == "\n"
  assert delimiter("harness_line", "harness_pair") == "\n"
  assert delimiter("harness_line", given="") == ""
  assert delimiter("harness_line", "harness_space", given="") == ""
  with pytest.raises(ValueError, match=r"2 different delimiters .*'\\n', ' '"):
    delimiter("harness_line", "harness_space")
  with pytest.raises(ValueError, match="delimiter .'x'. cannot be used: the"):
    delimiter("harness_pair", given="x")


@pytest.fixture
def registered():
  names = []

  def register(name, objective, rows, vocabulary=BYTES):
    columns = {key: [row[key] for row in rows] for key in rows[0]}
    source = sources.MemorySource(name, {"validation": columns})
    add_task(name, source=source, objective=objective, vocabulary=vocabulary)
    names.append(name)
    return Data(
      task=name, lengths={"inputs": 48, "targets": 16}, batch_size=4,
      split="validation", shuffle=False, num_epochs=1,
    )  # fmt: skip

  yield register
  for name in names:
    seqio.TaskRegistry.remove(name)


def test_batches_score_and_training_agree_on_the_tokens(registered):
  row = {"a": "x", "b": "y", "sum": "z"}
  objective = TextToText(
    inputs="{a}+{b}=", targets="{sum}", shots=1, between=" ; ", delimiter="_"
  )
  spec = registered("harness_agreement", objective, [row, row])
  batch = next(Reader(spec, row_formats.CAUSAL).batches())
  codec = infer.codec(resolve(spec.task), row_formats.CAUSAL, spec.lengths)
  job = infer.Score(model=Markov(), codec=codec)
  record = {"inputs": "x+y=_z ; x+y=", "targets": "z"}
  scored = job.encode(infer.Record("here", record))
  trained = batch["decoder_target_tokens"][0]
  weights = batch["decoder_loss_weights"][0] > 0
  assert trained[weights].tolist() == scored["targets"].tolist()
  assert BYTES.decode(trained[weights]) == "_z"
  given = trained[: weights.argmax()]
  assert given.tolist() == scored["inputs"].tolist()


def test_an_encoder_decoder_loses_no_character_at_the_cut(tmp_path, registered):
  words = HuggingFaceTokenizer(bpe(tmp_path / "tokenizer.json"))
  given = words.encode("th")
  assert len(given) == len(words.encode("the cat")) == 2  # t, h; the, cat
  # A decoder goes on from the tokens of "th", as in the harness.
  assert sentinels.encode_continuation(words, "th", "e cat") == (given, [])
  apart = sentinels.encode_continuation(words, "th", "e cat", alone=True)
  assert apart == (given, words.encode("e cat"))
  objective = Benchmark(
    examples=lambda dataset: dataset, pair=pairs.Joined(delimiter="")
  )
  row = {"inputs": "th", "targets": "e cat"}
  spec = registered("harness_cut", objective, [row], vocabulary=words)
  for architecture, targets in (
    ("causal", []), ("prefix", []), ("encoder_decoder", apart[1]),
  ):  # fmt: skip
    batch = next(Reader(spec, row_formats.ALL[architecture]).batches())
    asked = batch["decoder_target_tokens"][batch["decoder_loss_weights"] > 0]
    assert asked.tolist() == [*targets, words.eos_id]


@pytest.mark.parametrize("name", harness.SCORES)
def test_ranks_are_counted_as_the_harness_counts_them(golden, name):
  rows = [BENCHMARKS[name].read_row(flat(row)) for row in harness.ROWS[name]]
  targets = [
    choices.ranked(
      row["targets_pretokenized"].decode(), example=row, is_target=True
    )
    for row in examples(BENCHMARKS[name], rows, BYTES)
  ]
  scores = np.concatenate(harness.SCORES[name])
  found = metrics.rank_accuracy(targets, scores)
  found |= metrics.rank_accuracy_by_length(targets, scores)
  expected = golden["metrics"][name]
  for ours, theirs in (
    ("accuracy", "acc"),
    ("accuracy_per_character", "acc_norm"),
    ("accuracy_per_byte", "acc_bytes"),
  ):
    assert found[ours] == pytest.approx(100 * expected[theirs])


def test_greedy_matches_are_counted_as_the_harness_counts_them(golden):
  found = metrics.greedy_match(*zip(*harness.GREEDY, strict=True))
  expected = golden["metrics"]["lambada_all"]
  assert found["accuracy"] == 100 * expected["acc"]
  assert found["perplexity"] == pytest.approx(expected["perplexity"])


def test_of_lambada_the_words_own_tokens_must_be_the_most_probable(registered):
  # Said greedily after "the": " cat cat cat", for ever.
  V = BYTES.vocab_size
  logits = np.zeros((V, V), np.float32)
  for a, b in ("e ", " c", "ca", "at", "t "):
    logits[BYTES.encode(a), BYTES.encode(b)] = 2.0
  passages = ["see the cat", "see the car", "the cats", "cat cat", "the c"]
  log_z = np.log(np.exp(logits).sum(-1, keepdims=True))
  params = {"log_probs": logits - log_z}
  spec = registered(
    "harness_lambada", generation.LAMBADA, [{"passage": p} for p in passages]
  )
  reader = Reader(spec, row_formats.CAUSAL)
  found = task_metrics(Markov(), params, reader)
  assert found["accuracy"] == 60.0
  in_nats = -float(log_z[BYTES.encode("e")[0], 0] - 2.0)
  miss = in_nats - 2.0
  totals = [4 * in_nats, 3 * in_nats + miss, 4 * in_nats + miss, 4 * in_nats]
  totals.append(2 * in_nats)
  assert found["perplexity"] == pytest.approx(np.exp(-np.mean(totals)))


SQUAD_ANSWERS = [["Denver Broncos", "the Broncos"], []]


@pytest.mark.parametrize(
  ("said", "em"),
  [
    (["the Denver Broncos.", ""], 100.0),
    (["Broncos\nquestion: who won? context:", "Unanswerable."], 100.0),
    (["broncos\n\n2016", "unanswerable\nDenver"], 100.0),
    (["", "Denver"], 0.0),
    (["unanswerable", "\n"], 50.0),
  ],
)
def test_answers_end_with_their_line_and_may_be_none(said, em):
  rows = [
    generation.read_squad(
      {"question": "Who?", "context": "A game.", "answers/text": answers}
    )
    for answers in SQUAD_ANSWERS
  ]
  asked = examples(generation.SQUAD, rows, BYTES)
  first = [row["targets_pretokenized"] for row in asked]
  assert first == [b"Denver Broncos", b"unanswerable"]
  post = generation.SQUAD.postprocess_fn
  targets = [post("", example=row, is_target=True) for row in asked]
  predictions = [post(answer, is_target=False) for answer in said]
  assert metrics.squad(targets, predictions)["em"] == em


def test_a_few_shot_answer_ends_where_the_next_shot_would_begin():
  objective = TextToText(inputs="{a}+{b}=", targets="{sum}", shots=2)
  (compare,) = objective.metric_fns
  post = objective.postprocess_fn
  said = [" 4\n\n1+1= 2", "4", " 44", "\n\n4"]
  found = compare(["4"] * 4, [post(answer) for answer in said])
  assert found == {"sequence_accuracy": 50.0}
  # Without shots there is no next one: a target may have paragraphs.
  whole = text_to_text.TextToText(inputs="{a}", targets="{b}")
  assert whole.postprocess_fn is None
