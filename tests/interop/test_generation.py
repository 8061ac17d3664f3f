"""config.json and generation_config.json say what `transformers` reads."""

import itertools
import json

import pytest

from t5x_lite.decoding import (
  GREEDY,
  Beam,
  Constraints,
  Phrases,
  Repetition,
  Sample,
)
from t5x_lite.interop import generation

CONFIG = {"model_type": "bart"}


def read(directory, config, said=None, *, pair=True, **options):
  (directory / "config.json").write_text(json.dumps({**CONFIG, **config}))
  if said is not None:
    (directory / "generation_config.json").write_text(json.dumps(said))
  settings = {"is_encoder_decoder": pair, "vocab_size": 50, **options}
  return generation.read(directory, **settings)


def theirs(directory):
  """Reads as AutoModel does, before the first call of `generate`."""
  import transformers

  name = "generation_config.json"
  name = name if (directory / name).exists() else "config.json"
  return transformers.GenerationConfig.from_pretrained(
    directory, config_file_name=name, _from_model_config=name == "config.json"
  )


START, BOS, EOS = "decoder_start_token_id", "bos_token_id", "eos_token_id"


@pytest.mark.parametrize(
  ("config", "said"),
  [
    ({START: 5}, None),
    ({START: 0, BOS: 4}, None),
    ({BOS: 7}, None),
    ({START: None, BOS: 7}, None),
    ({START: 5}, {START: 9}),
    ({START: 5}, {BOS: 9}),
    ({}, {START: 9}),
    ({START: 5, EOS: 3}, {START: 5, EOS: 4}),
    ({START: 5, EOS: [3, 4]}, None),
    ({START: 5, EOS: 3}, {START: 5, EOS: [6, 7, 8]}),
  ],
)
def test_start_and_ends_are_theirs(tmp_path, config, said):
  found = read(tmp_path, config, said)
  expected = theirs(tmp_path)
  start = expected.decoder_start_token_id
  assert found.start_id == (expected.bos_token_id if start is None else start)
  ends = expected.eos_token_id
  ends = [] if ends is None else ends if isinstance(ends, list) else [ends]
  assert list(found.constraints.ends) == ends


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize(
  ("options", "fields"),
  [
    ({"forced_bos_token_id": 3}, {"first": 3}),
    ({"forced_eos_token_id": [3]}, {"last": 3}),
    ({"suppress_tokens": [1, 2]}, {"suppressed": (1, 2)}),
    ({"bad_words_ids": [[4], [2]]}, {"suppressed": (2, 4)}),
    ({"bad_words_ids": [[4]], EOS: 4}, {"ends": (4,)}),
    ({"begin_suppress_tokens": [7]}, {"suppressed_first": (7,)}),
    ({"min_length": 3, "max_length": 8}, {"min_length": 3, "max_length": 8}),
    ({"min_new_tokens": 2}, {"min_new_tokens": 2}),
    ({"max_new_tokens": 30}, {"max_new_tokens": 30}),
    ({"num_beams": 1, "length_penalty": 2.0, "repetition_penalty": 1.0}, {}),
    ({"temperature": 0.5, "min_p": 0.1}, {}),  # Of greedy decoding.
    (
      {"repetition_penalty": 1.1, "no_repeat_ngram_size": 3},
      {"repetition": Repetition(penalty=1.1, no_repeat_ngram_size=3)},
    ),
    (
      {"bad_words_ids": [[1, 2], [4]]},
      {"suppressed": (4,), "phrases": Phrases(banned=[(1, 2)])},
    ),
  ],
)
def test_options_become_constraints(tmp_path, beside, options, fields):
  said = {START: 5, **options}
  found = read(tmp_path, {START: 5}, said) if beside else read(tmp_path, said)
  assert found.constraints == Constraints(**fields)
  assert found.sampler == GREEDY


@pytest.mark.parametrize(
  ("options", "sampler"),
  [
    ({}, Sample(top_k=50)),
    ({"temperature": 0.6, "top_p": 0.9}, Sample(
      temperature=0.6, top_k=50, top_p=0.9)),
    ({"top_k": 0, "top_p": 1.0}, Sample()),
    ({"top_k": 0, "min_p": 0.1, "typical_p": 0.9},
     Sample(min_p=0.1, typical_p=0.9)),
    ({"num_beams": 4}, Beam(num_beams=4, sample=Sample(top_k=50))),
    ({"num_beams": 4, "early_stopping": True, "length_penalty": 2.0,
      "do_sample": False},
     Beam(num_beams=4, early_stopping=True, length_penalty=2.0)),
    ({"num_beams": 6, "num_beam_groups": 3, "diversity_penalty": 0.5,
      "do_sample": False}, Beam(num_beams=6, groups=3, diversity_penalty=0.5)),
  ],
)  # fmt: skip
def test_sampling_is_theirs(tmp_path, options, sampler):
  said = {"do_sample": True, **options}
  assert read(tmp_path, {}, said, pair=False).sampler == sampler


def test_an_older_way_to_force_the_first_token(tmp_path):
  older = {START: 2, BOS: 0, "force_bos_token_to_be_generated": True}
  assert read(tmp_path, older).constraints.first == 0
  assert theirs(tmp_path).forced_bos_token_id == 0


def test_what_files_disagree_on_is_told(tmp_path):
  (note,) = read(tmp_path, {START: 5}, {START: 9}).notes
  assert "start from 9" in note and "decoder_start_token_id = 5" in note
  config = {"model_type": "t5", "pad_token_id": 3}
  found = read(tmp_path, config, {})
  assert found.start_id == 3 and "the padding token, 3" in found.notes[0]


@pytest.mark.parametrize(
  "options",
  [
    {"num_return_sequences": 2}, {"penalty_alpha": 0.6},
    {"epsilon_cutoff": 0.1, "do_sample": True}, {"stop_strings": ["\n"]},
    {"an_option_of_tomorrow": 1},
  ],
)  # fmt: skip
def test_other_options_are_refused_unless_ignored(tmp_path, options):
  name = next(iter(options))
  with pytest.raises(ValueError, match=f"{name}.*--ignore={name}"):
    read(tmp_path, {}, {START: 5, **options})
  found = read(tmp_path, {}, {START: 5, **options}, ignore=[name])
  assert found.constraints == Constraints()


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({EOS: 50}, "eos_token_id is 50, but the model has 50 ids"),
    ({EOS: "</s>"}, "'</s>'. must be a token id"),
    ({START: [1, 2]}, r"decoder_start_token_id is \[1, 2\]"),
    ({START: None}, "neither decoder_start_token_id nor bos_token_id"),
    ({"forced_eos_token_id": [1, 2]}, "forced_eos_token_id has 2 ids"),
    ({"forced_eos_token_id": []}, "forced_eos_token_id .*a list of one"),
    ({EOS: True}, "eos_token_id .True. must be a token id"),
    ({"bad_words_ids": [5]}, r"bad_words_ids .\[5\]. must be a list of lists"),
    ({"bad_words_ids": [[]]}, "none of them empty"),
    ({"suppress_tokens": 5}, "suppress_tokens .5. must be a list of token ids"),
    ({"min_length": "4"}, "min_length .'4'. must be of type int"),
    ({"do_sample": "no"}, "do_sample .'no'. must be true or false"),
    (
      {"do_sample": True, "top_p": "x"},
      "top_p .'x'. must be a number",
    ),
    ({"num_beams": "4"}, "num_beams .'4'. must be a number"),
    (
      {"num_beams": 4, "early_stopping": "soon"},
      "early_stopping .'soon'. must",
    ),
  ],
)
def test_mistakes_are_one_line(tmp_path, options, message):
  with pytest.raises(ValueError, match=message) as caught:
    read(tmp_path, {START: 5, **options})
  assert "\n" not in str(caught.value)


@pytest.mark.parametrize("pair", [True, False])
def test_what_is_written_is_read_again(tmp_path, pair):
  every = Constraints(
    ends=(4, 6), first=3, last=4, suppressed=(1, 2), suppressed_first=(7,),
    min_length=2, min_new_tokens=1, max_length=9, max_new_tokens=8,
    repetition=Repetition(penalty=1.2, no_repeat_ngram_size=2),
    phrases=Phrases(banned=[(5, 6)]),
  )  # fmt: skip
  samplers = (
    GREEDY, Sample(temperature=0.7, top_p=0.9), Sample(top_k=50, min_p=0.1),
    Beam(num_beams=2, early_stopping="never", sample=Sample(typical_p=0.5)),
    Beam(num_beams=4, groups=2, diversity_penalty=0.5),
  )  # fmt: skip
  like = {"num_beams": 1, "do_sample": True, "min_length": 7, "pad_token_id": 1}
  for constraints, sampler in itertools.product(
    (every, Constraints(ends=(4,))), samplers
  ):
    options = generation.describe(
      constraints, sampler, eos_id=2, start_id=5, is_encoder_decoder=pair
    )
    text = generation.text(options, like)
    again = read(tmp_path, {}, json.loads(text), pair=pair)
    assert again.constraints == constraints and again.sampler == sampler
    assert again.start_id == (5 if pair else None)
    assert json.loads(text)["pad_token_id"] == 1


def test_what_is_said_may_be_ignored(tmp_path):
  config = {START: 5, EOS: None, "num_beams": 4, "d_model": 8}
  read(tmp_path, config, ignore=["num_beams"])
  assert generation.options(tmp_path) == {START, "num_beams"}
  read(tmp_path, config, {"top_k": 3})  # Beams are not asked for any more.
  assert generation.options(tmp_path) == {START, "top_k"}
