"""A LanguageModel generates, streams, scores and embeds texts."""

import dataclasses
import functools
import json
import re

import jax
import jsonschema
import numpy as np
import pytest

from t5x_lite import decoding
from t5x_lite.data.vocabularies.byte import Bytes
from t5x_lite.data.vocabulary_record import Feature, TextTask
from t5x_lite.devices import copies
from t5x_lite.devices.layout import Layout
from t5x_lite.files.text_files import Record
from t5x_lite.inference import infer, strategies
from t5x_lite.inference.language_model import LanguageModel
from t5x_lite.inference.probe import probe
from t5x_lite.nn.caches import Caching
from tests import tiny

VOCABULARY = Bytes()
TEXTS = ["one", "<extra_id_0> b"]


@functools.cache
def language_model(kind):
  model = tiny.with_vocab({"t5": tiny.t5, "palm": tiny.palm}[kind](), 384)
  names = ("inputs", "targets") if kind == "t5" else ("targets",)
  task = TextTask(
    name="bytes",
    features={name: Feature(VOCABULARY, True) for name in names},
    delimiters=() if kind == "t5" else (" ",),
  )
  # A low id of a letter is likelier, so that there is text to look at.
  params = tiny.random_params(model)
  return LanguageModel(
    model=model,
    params=params,
    task=task,
    lengths=dict.fromkeys(names, 32),
    constraints=decoding.Constraints(
      suppressed=[i for i in range(384) if not 100 <= i < 126]
    ),
  )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t5", "palm"])
@pytest.mark.parametrize("arguments", [{}, {"temperature": 1.0, "seed": 3}])
def test_pieces_of_a_stream_are_the_generated_text(kind, arguments):
  model = language_model(kind)
  (text,) = model.generate(["one"], max_new_tokens=8, **arguments)
  pieces = list(model.stream("one", max_new_tokens=8, **arguments))
  assert len(text) == len(pieces) == 8
  assert "".join(pieces) == text
  # A stop string of two tokens; one that begins alike delays the pieces only.
  stop = [text[3:5], f"{text[1:3]}?"]
  before = text[: text.index(stop[0])]
  arguments = arguments | {"max_new_tokens": 8, "stop_strings": stop}
  assert model.generate(["one"], **arguments) == [before]
  pieces = list(model.stream("one", **arguments))
  assert "".join(pieces) == before


def test_a_stream_ends_early_at_a_stop_string_or_when_it_is_left():
  steps, model = [], language_model("palm")
  barred = [i for i in model.constraints.suppressed if i != VOCABULARY.eos_id]
  model = dataclasses.replace(
    model, constraints=decoding.Constraints(suppressed=barred)
  )
  (text,) = model.generate(["one"], max_new_tokens=16)

  decode = VOCABULARY.decode

  def count(tokens):
    steps.append(len(tokens))
    return decode(tokens)

  arguments = {"max_new_tokens": 16, "stop_strings": text[1]}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(VOCABULARY, "decode", count, raising=False)
    assert (
      "".join(model.stream("one", **arguments)) == text[: text.index(text[1])]
    )
  assert max(steps) < 8  # Of the 16 tokens that there is room for.
  job = model.generation(**arguments)
  batch = infer.batch(job, [job.encode(Record("", {"text": "one"}))])
  assert job.compute(model.params, batch, np.arange(1))["lengths"] == 2
  first = next(stream := model.stream("one", max_new_tokens=16))
  stream.close()
  assert text.startswith(first)


def test_samples_of_a_text_come_in_a_list():
  model = language_model("palm")
  arguments = {"temperature": 1.0, "max_new_tokens": 6}
  found = model.generate(TEXTS, num_return_sequences=3, **arguments)
  assert [len(set(samples)) for samples in found] == [3, 3]
  assert found != model.generate(
    TEXTS, num_return_sequences=3, seed=1, **arguments
  )
  assert model.generate([], max_new_tokens=6) == []


@pytest.mark.parametrize("kind", ["t5", "palm"])
def test_targets_are_scored_in_nats(kind):
  model = language_model(kind)
  found = model.score(TEXTS, ["two", "three"])
  assert len(found) == 2 and max(found) < 0
  # The same by the model's own logits, for the first pair.
  if kind == "t5":
    given, written = VOCABULARY.encode("one"), VOCABULARY.encode("two")
    batch = model.model.row_format.of_text([*given, 1], written)
    targets = np.array([*written, 1])
    logits = model.model.logits(model.params, batch)
    log_probs = jax.nn.log_softmax(logits)[0]
    expected = sum(log_probs[i, t] for i, t in enumerate(targets))
    assert found[0] == pytest.approx(float(expected), abs=1e-4)
  else:
    whole = model.score(None, ["one two"])
    assert whole[0] < found[0]


@pytest.mark.parametrize("kind", ["t5", "palm"])
def test_an_embedding_is_the_mean_of_the_last_states(kind):
  model = language_model(kind)
  found = model.embed(["one", "a longer text"])
  assert found.shape == (2, tiny.WIDTH) and found.dtype == np.float32
  ids = VOCABULARY.encode("one") + ([1] if kind == "t5" else [])
  batch = model.model.row_format.of_text(ids, [])
  side = model.model.row_format.sides[0]
  states = probe(model.model, model.params, batch)[side].states[-1][0]
  # Before the final norm, which has no bias here.
  if kind == "palm":
    states -= states.mean(-1, keepdims=True)
  scale = model.params[side]["final_norm"]["scale"]
  normed = states / np.sqrt(np.mean(states**2, -1, keepdims=True) + 1e-6)
  np.testing.assert_allclose(
    found[0], (normed * scale).mean(0), atol=1e-4, rtol=1e-3
  )
  np.testing.assert_allclose(model.embed(["one"])[0], found[0], atol=1e-5)


def test_arguments_make_strategies_by_one_table():
  plain = strategies.Settings(decoding.GREEDY, decoding.UNCONSTRAINED)

  def make(default=decoding.GREEDY, **given):
    settings = plain._replace(sampler=default)
    return strategies.settings(settings, vocabulary=VOCABULARY, **given).sampler

  assert make() == make(do_sample=False) == make(num_beams=1) == plain.sampler
  assert make(do_sample=True) == decoding.Sample()
  sample = decoding.Sample(temperature=0.5, top_k=3)
  assert make(temperature=0.5, top_k=3, top_p=None) == sample
  assert make(sample) == sample
  assert make(sample, top_k=9).temperature == 0.5
  assert make(sample, num_beams=3) == decoding.Beam(num_beams=3)
  assert make(num_beams=3, do_sample=True, top_k=2, count=2) == decoding.Beam(
    num_beams=3, sample=decoding.Sample(top_k=2), num_return_sequences=2
  )
  groups = {"num_beam_groups": 2, "diversity_penalty": 0.5}
  assert make(num_beams=4, **groups).groups == 2
  assert make(decoding.Beam(), num_beams=1) == decoding.GREEDY
  contrastive = decoding.Contrastive(penalty_alpha=0.4, top_k=2)
  assert make(penalty_alpha=0.4, top_k=2) == contrastive
  look_up = decoding.PromptLookup(num_tokens=3)
  assert make(prompt_lookup_num_tokens=3, top_k=2) == decoding.Assisted(
    draft=look_up, sampler=decoding.Sample(top_k=2)
  )
  found = strategies.settings(
    plain, vocabulary=VOCABULARY, no_repeat_ngram_size=2, bad_words_ids=[[3]]
  )
  assert found.constraints == decoding.Constraints(
    repetition=decoding.Repetition(no_repeat_ngram_size=2),
    phrases=decoding.Phrases(banned=[[3]]),
  )


@pytest.mark.slow
def test_beams_and_an_assistant_write_texts():
  model = language_model("palm")
  texts, settings = ["ab", "c"], {"max_new_tokens": 6}
  (first, second), _ = model.generate(
    texts, num_beams=3, num_return_sequences=2, **settings
  )
  assert first != second
  assert model.generate(texts, num_beams=3, **settings)[0] == first
  greedy = model.generate(texts, **settings)
  assert model.generate(texts, assistant=model, **settings) == greedy
  looked_up = model.generate(texts, prompt_lookup_num_tokens=2, **settings)
  assert looked_up == greedy


def test_rows_that_come_and_go_and_kept_keys_change_no_text():
  model = language_model("palm")
  constraints = decoding.Constraints(
    suppressed=model.constraints.suppressed, ends=range(100, 106)
  )
  model = dataclasses.replace(model, constraints=constraints)
  texts = ["ab", "c", "a longer text", "d", "ef", "g"]
  settings = {"max_new_tokens": 8, "temperature": 1.0, "batch_size": 2}
  expected = model.generate(texts, **settings)
  assert len({len(text) for text in expected}) > 2
  found = model.generate(
    texts, continuous=True, cache_dtype="float32", prefill_chunk_size=4,
    **settings,
  )  # fmt: skip
  assert found == expected
  job = model.generation(cache_dtype="int8", prefill_chunk_size=8)
  assert job.caching == Caching(dtype="int8", prefill_chunk=8)
  layout = Layout(mesh={"data": -1})
  with pytest.raises(ValueError, match="for one copy of the model, and there"):
    dataclasses.replace(model, layout=layout).generate(texts, continuous=True)


def test_beams_of_several_copies_are_those_of_one_device():
  model, settings = language_model("palm"), {"max_new_tokens": 6}
  texts = ["ab", "c"]
  axes, abstract = model.model.logical_axes(), model.model.abstract()
  layout = copies.layout(4).fit(axes, abstract)
  params = jax.device_put(model.params, layout.tree_shardings(axes, abstract))
  divided = dataclasses.replace(model, params=params, layout=layout)
  expected = model.generate(texts, num_beams=3, **settings)
  assert divided.generate(texts, num_beams=3, **settings) == expected
  with pytest.raises(
    ValueError, match="copies=3 does not divide the 8 devices"
  ):
    copies.layout(3)


def test_words_are_forced_and_banned_as_text():
  model, settings = language_model("palm"), {"max_new_tokens": 6}
  (plain,) = model.generate(["ab"], num_beams=2, **settings)
  word = plain[1:3]
  (found,) = model.generate(
    ["ab"], num_beams=2, bad_words=[word], force_words=["st"], **settings
  )
  assert word not in found and "st" in found


def test_texts_match_a_regex_or_are_valid_by_a_schema():
  model = dataclasses.replace(
    language_model("palm"), constraints=decoding.UNCONSTRAINED
  )
  found = model.generate(
    ["a"] * 200, regex="(é|[0-9]{2,4}|<extra_id_0>.)+", temperature=1.0,
    max_new_tokens=8, batch_size=200,
  )  # fmt: skip
  for text in found:
    assert re.fullmatch("(é|[0-9]{2,4}|<extra_id_0>.)+", text), text
  assert len(set(found)) > 100
  schema = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
    "required": ["a", "b"],
  }
  found = model.generate(["a", "b", "cd"], json_schema=schema, temperature=1.0,
                         max_new_tokens=24)  # fmt: skip
  for text in found:
    jsonschema.validate(json.loads(text), schema)


@pytest.mark.slow
def test_each_text_may_have_settings_of_its_own():
  model, texts = language_model("palm"), ["a", "bc", "a", "d"]
  lists = {
    "temperature": [0.5, 2.0, 0.5, 2.0],
    "top_k": [None, 3, None, 3],
    "max_new_tokens": [6, 4, 6, 4],
    "seed": [1, 2, 1, 2],
  }
  found = model.generate(texts, **lists)
  for place in range(2):
    alone = {name: values[place] for name, values in lists.items()}
    together = model.generate(texts, **alone)
    assert found[place::2] == together[place::2]
  assert len(set(found)) == 4
  two = model.generate(texts[:2], temperature=[0.5, 2.0], max_new_tokens=4,
                       num_return_sequences=2)  # fmt: skip
  assert [len(row) for row in two] == [2, 2]
  assert model.generate([], temperature=[]) == []


@pytest.mark.parametrize(
  ("arguments", "message"),
  [
    (
      {"temperature": [1.0, 2.0]},
      r"=\[1.0, 2.0\] has 2 values for 1 t",
    ),
    (
      {"force_words_ids": [[5]]},
      r"ids=\[\[5\]\] has no effect: it needs num",
    ),
    ({"regex": "a", "json_schema": {}}, "regex='a' and json_schema both say"),
    ({"do_sample": False, "temperature": 0.5}, "temperature=0.5 has no effect"),
    ({"top_k": 385}, "top_k=385 is more than the 384 tokens"),
    ({"num_return_sequences": 2}, "num_return_sequences=2 needs sampling"),
    ({"num_beams": 2, "temperature": 0.5}, "do_sample=True beside num_beams"),
    ({"length_penalty": 2.0}, "length_penalty=2.0 has no effect: it needs num"),
    ({"penalty_alpha": 0.5, "top_p": 0.5}, "top_p=0.5 has no effect"),
    ({"num_beams": 2, "penalty_alpha": 0.5}, "two ways to generate"),
    ({"num_beams": 2, "num_return_sequences": 3}, "must be at most num_beams"),
    ({"temperature": -1.0}, "temperature"),
    ({"stop_strings": [""]}, "stop='' is empty"),
    ({"bad_words": [""]}, "bad_words='' has no tokens"),
    ({"force_words": ["a"]}, r"force_words=\['a'\] has no effect: it needs"),
    ({"cache_dtype": "int4"}, "dtype .'int4'. must be of"),
    ({"max_new_tokens": 32}, "leaves no room for a prompt"),
  ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
  with pytest.raises(ValueError, match=message):
    language_model("palm").generate(["a"], **arguments)


def test_a_text_in_place_of_texts_and_unknown_arguments_are_refused():
  model = language_model("palm")
  with pytest.raises(ValueError, match=r"must be a list of texts: \['a'\]"):
    model.generate("a")
  with pytest.raises(ValueError, match="1 inputs for 2 targets"):
    model.score(["a"], ["b", "c"])
  with pytest.raises(TypeError, match="no argument 'beams'"):
    model.generate(["a"], beams=2)


def test_a_cache_that_no_memory_holds_is_refused():
  with pytest.raises(ValueError, match="max_new_tokens=100000000 needs .* GiB"):
    language_model("t5").generate(["a"], max_new_tokens=100_000_000)
