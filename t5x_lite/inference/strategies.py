"""Makes strategies and constraints of `transformers`' generation arguments.

temperature=0.8, top_k=40           Sample(temperature=0.8, top_k=40)
do_sample=True                      Sample(), or the default if it samples
do_sample=False                     Greedy()
num_beams=4, length_penalty=0.6     Beam(num_beams=4, length_penalty=0.6)
num_beams=4, do_sample=True         Beam(num_beams=4, sample=Sample())
penalty_alpha=0.6, top_k=4          Contrastive(penalty_alpha=0.6, top_k=4)
prompt_lookup_num_tokens=10         Assisted(draft=PromptLookup(num_tokens=10))
assistant=a LanguageModel           Assisted(draft=DraftModel(...))
no_repeat_ngram_size=3              Constraints(repetition=Repetition(...))
force_words_ids=[[5, 6]]            Constraints(phrases=Phrases(forced=...))
force_words=["a word"]              the same, of its tokens
regex="[0-9]{4}", json_schema={}    Constraints(among=Regex(pattern=...))
cache_dtype="int8"                  Caching(dtype="int8")
prefill_chunk_size=512              Caching(prefill_chunk=512)
"""

import collections
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from t5x_lite import decoding
from t5x_lite.data import sentinels, token_bytes

_SAMPLE = ("temperature", "top_k", "top_p", "min_p", "typical_p")
# Argument -> field.
_BEAM = {
  "num_beams": "num_beams",
  "length_penalty": "length_penalty",
  "early_stopping": "early_stopping",
  "num_beam_groups": "groups",
  "diversity_penalty": "diversity_penalty",
}
_REPETITION = {
  "repetition_penalty": "penalty",
  "presence_penalty": "presence_penalty",
  "no_repeat_ngram_size": "no_repeat_ngram_size",
}
# What may stand before words: some tokens are a space and a word.
_WORDS = {"bad_words": ("", " "), "force_words": ("",)}
_CACHING = {"cache_dtype": "dtype", "prefill_chunk_size": "prefill_chunk"}
_PHRASES = {"bad_words_ids": "banned", "force_words_ids": "forced"}
ARGUMENTS = (
  "do_sample", *_SAMPLE, *_BEAM, "penalty_alpha", "prompt_lookup_num_tokens",
  "assistant", *_REPETITION, *_PHRASES, *_WORDS, "regex", "json_schema",
  *_CACHING,
)  # fmt: skip


# Of these there may be a value for each text.
_BY_TEXT = ("temperature", "top_k", "top_p", "min_p", "seed", "max_new_tokens")


class Settings(NamedTuple):
  """Says how a job generates.

  sampler, constraints, draft_params, caching: as `decoding.generate` takes
    them.
  """

  sampler: decoding.Strategy
  constraints: decoding.Constraints
  draft_params: Any = None
  caching: decoding.Caching | None = None


def settings(
  default: Settings,
  *,
  vocabulary: sentinels.Vocabulary,
  count: int = 1,
  **given: Any,
) -> Settings:
  """Returns what generation arguments say.

  Args:
    default: the model's own, which arguments change.
    vocabulary: the model's.
    count: how many texts are wanted of each prompt. Beams return as many;
      samples are drawn one by one.
    **given: values by the names in `ARGUMENTS`; None is not given.

  Raises:
    ValueError: arguments that contradict each other, or do not fit the default.
  """
  given = {name: value for name, value in given.items() if value is not None}
  with_words = _with_words(given, vocabulary)
  constraints = _constrained(default.constraints, with_words)
  if "regex" in given or "json_schema" in given:
    among = _regex(given, constraints, vocabulary)
    constraints = dataclasses.replace(constraints, among=among)
  ways = {
    "num_beams": given.get("num_beams", 1) > 1,
    "penalty_alpha": "penalty_alpha" in given,
    "prompt_lookup_num_tokens": "prompt_lookup_num_tokens" in given,
    "assistant": "assistant" in given,
  }
  chosen = [name for name, is_chosen in ways.items() if is_chosen]
  if len(chosen) > 1:
    raise ValueError(
      f"{chosen[0]} and {chosen[1]} are two ways to generate: leave one out"
    )
  (way,) = chosen or (None,)
  _refuse(given, [name for name in _BEAM if name != "num_beams"],
          way == "num_beams", "num_beams above 1")  # fmt: skip
  is_beam = isinstance(default.sampler, decoding.Beam) and not chosen
  is_beam &= not ({"num_beams", "do_sample"} & given.keys())
  _refuse(given, ["force_words", "force_words_ids"],
          way == "num_beams" or is_beam, "num_beams above 1")  # fmt: skip
  if way == "num_beams":
    sampler = _beam(default.sampler, given, count)
  elif way == "penalty_alpha":
    _refuse(given, ("do_sample", *(n for n in _SAMPLE if n != "top_k")), False,
            "no penalty_alpha, which takes the best")  # fmt: skip
    names = ("penalty_alpha", "top_k")
    sampler = decoding.Contrastive(**{n: given[n] for n in names if n in given})
  else:
    sampler = _sampler(default.sampler, given)
  draft_params = None
  if way == "prompt_lookup_num_tokens":
    draft = decoding.PromptLookup(num_tokens=given[way])
    sampler = decoding.Assisted(draft=draft, sampler=sampler)
  elif way == "assistant":
    draft = decoding.DraftModel(model=given[way].model)
    sampler = decoding.Assisted(draft=draft, sampler=sampler)
    draft_params = given[way].params
  caching = {
    field: given[name] for name, field in _CACHING.items() if name in given
  }
  caching = decoding.Caching(**caching) if caching else None
  return Settings(sampler, constraints, draft_params, caching)


def by_text(
  count: int, given: Mapping[str, Any]
) -> list[tuple[list[int], dict[str, Any]]]:
  """Divides texts by the settings that each of them has.

  A sampler is a constant of the program that it is compiled in, so texts of
  one setting are computed together, by any strategy alike.

  Args:
    count: the number of texts.
    given: arguments by name; some may be lists with a value for each text.

  Returns:
    [(places of texts, their arguments)].

  Raises:
    ValueError: a list has not as many values as there are texts.
  """
  lists = {
    name: given[name]
    for name in _BY_TEXT
    if isinstance(given.get(name), list | tuple)
  }
  for name, values in lists.items():
    if len(values) != count:
      raise ValueError(
        f"{name}={values} has {len(values)} values for {count} texts: give one "
        "for each, or one for all"
      )
  places = collections.defaultdict(list)
  for place in range(count):
    places[tuple(values[place] for values in lists.values())].append(place)
  if not count:
    places[tuple(None for _ in lists)] = []
  return [
    (some, {**given, **dict(zip(lists, values, strict=True))})
    for values, some in places.items()
  ]


def check_samples(sampler: decoding.Strategy, **named: int) -> None:
  """Refuses several samples of a strategy that gives the same each time.

  Args:
    sampler: the strategy.
    **named: the number of samples, by the name that the caller knows it by.

  Raises:
    ValueError: the strategy draws nothing and the number is above 1.
  """
  ((name, count),) = named.items()
  is_random = getattr(sampler, "is_random", True)
  if count > 1 and not is_random and not isinstance(sampler, decoding.Beam):
    raise ValueError(
      f"{name}={count} needs sampling or beams, as such texts are all the "
      f"same: set temperature, top_k or top_p, or num_beams={count}"
    )


def _with_words(given, vocabulary):
  """Returns the arguments with words as token ids, too."""
  unknown = getattr(vocabulary, "unk_id", None)
  found = dict(given)
  for name, prefixes in _WORDS.items():
    for word in given.get(name, ()):
      spelled = [sentinels.encode(vocabulary, p + word) for p in prefixes]
      if not word or any(not ids or unknown in ids for ids in spelled):
        raise ValueError(
          f"{name}={word!r} has no tokens in the vocabulary: correct it"
        )
      found[f"{name}_ids"] = [*found.get(f"{name}_ids", ()), *spelled]
  return found


def _constrained(constraints, given):
  for part, default, names in (
    ("repetition", decoding.Repetition(), _REPETITION),
    ("phrases", decoding.Phrases(), _PHRASES),
  ):
    changes = {
      field: given[name] for name, field in names.items() if name in given
    }
    if changes:
      old = getattr(constraints, part) or default
      new = dataclasses.replace(old, **changes)
      constraints = dataclasses.replace(constraints, **{part: new})
  return constraints


def _regex(given, constraints, vocabulary):
  if "regex" in given and "json_schema" in given:
    raise ValueError(
      f"regex={given['regex']!r:.40} and json_schema both say what a text is: "
      "give one of them"
    )
  pattern = given.get("regex")
  if pattern is None:
    pattern = decoding.json_schema.pattern(given["json_schema"])
  spelled = token_bytes.token_bytes(vocabulary)
  # What ends a text, or cannot come, is not part of one.
  ends = constraints.end_ids(sentinels.eos_id(vocabulary))
  removed = {*ends, *constraints.suppressed}
  first, later = (
    [b"" if i in removed else text for i, text in enumerate(texts)]
    for texts in spelled
  )
  return decoding.Regex(pattern=pattern, first=first, later=later)


def _refuse(given, names, is_used, needed):
  """Refuses the first of some arguments that would have no effect."""
  for name in names:
    if name in given and not is_used:
      raise ValueError(
        f"{name}={given[name]} has no effect: it needs {needed}; leave it out"
      )


def _beam(default, given, count):
  _refuse(given, _SAMPLE, given.get("do_sample"),
          "do_sample=True beside num_beams")  # fmt: skip
  sample = None
  if given.get("do_sample"):
    sample = decoding.Sample(**{n: given[n] for n in _SAMPLE if n in given})
  changes = {
    field: given[name] for name, field in _BEAM.items() if name in given
  }
  beam = default if isinstance(default, decoding.Beam) else decoding.Beam()
  returned = count if count > 1 else None
  return dataclasses.replace(
    beam, **changes, sample=sample, num_return_sequences=returned
  )


def _sampler(default, given):
  sample = {name: given[name] for name in _SAMPLE if name in given}
  if given.get("do_sample") is False:
    _refuse(given, _SAMPLE, False, "do_sample=True")
    return decoding.GREEDY
  if "num_beams" in given and isinstance(default, decoding.Beam):
    default = decoding.GREEDY  # One beam.
  if default == decoding.GREEDY and (sample or given.get("do_sample")):
    return decoding.Sample(**sample)
  fields = {field.name for field in dataclasses.fields(default)}
  for name, value in sample.items():
    if name not in fields:
      raise ValueError(
        f"{name}={value}: {default}, by which the model generates, has no "
        f"{name}: leave it out, add do_sample=False or num_beams=1, or name "
        "another strategy in the run (run.Run.sampler)"
      )
  return dataclasses.replace(default, **sample) if sample else default
