"""Reads and writes how a model generates: generation_config.json, config.json.

As in `transformers` 5, generation_config.json is asked alone where it is there,
and otherwise config.json; only token ids that it does not name are taken from
config.json all the same. A default that the decoder here does not have, such as
stop strings, is refused by name.
"""

import dataclasses
import json
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

from t5x_lite import decoding
from t5x_lite.files import json_text
from t5x_lite.interop import config as config_json

NAME = "generation_config.json"

# Value that leaves things as they are: any other is refused.
_UNSUPPORTED = {
  "constraints": None, "dola_layers": None,
  "encoder_no_repeat_ngram_size": 0, "encoder_repetition_penalty": 1.0,
  "exponential_decay_length_penalty": None, "force_words_ids": None,
  "forced_decoder_ids": None, "guidance_scale": 1.0, "max_time": None,
  "num_return_sequences": 1, "penalty_alpha": 0.0, "sequence_bias": None,
  "stop_strings": None, "token_healing": False, "watermarking_config": None,
}  # fmt: skip
# The same where tokens are drawn.
_UNSUPPORTED_SAMPLING = {
  "epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "top_h": None,
}  # fmt: skip
_HONOURED = {
  "bad_words_ids", "begin_suppress_tokens", "bos_token_id",
  "decoder_start_token_id", "diversity_penalty", "do_sample", "early_stopping",
  "eos_token_id", "force_bos_token_to_be_generated", "forced_bos_token_id",
  "forced_eos_token_id", "length_penalty", "max_length", "max_new_tokens",
  "min_length", "min_new_tokens", "min_p", "no_repeat_ngram_size",
  "num_beam_groups", "num_beams", "pad_token_id", "repetition_penalty",
  "suppress_tokens", "temperature", "top_k", "top_p", "typical_p",
}  # fmt: skip
# How it is computed and what is given back.
_WITHOUT_EFFECT = {
  "_commit_hash", "_from_model_config", "assistant_confidence_threshold",
  "assistant_early_exit", "assistant_ensemble_weight", "assistant_lookbehind",
  "cache_config", "cache_implementation", "compile_config",
  "continuous_batching_config", "disable_compile", "is_assistant",
  "low_memory", "max_cache_len",
  "max_matching_ngram_size", "num_assistant_tokens",
  "num_assistant_tokens_schedule", "output_attentions",
  "output_hidden_states", "output_logits", "output_scores",
  "prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values",
  "renormalize_logits", "return_dict_in_generate", "return_legacy_cache",
  "speculation_type", "target_lookbehind", "transformers_version",
  "use_cache", "use_mtp",
}  # fmt: skip


def _are_ids(value) -> bool:
  return isinstance(value, list) and all(
    type(token) is int and token >= 0 for token in value
  )


# Option -> what it must be, and whether a value is; the rest is checked where
# it is used (decoding.Constraints, decoding.Sample).
_KINDS = {
  "eos_token_id": (
    "a token id or a list of them",
    lambda value: _are_ids(value if isinstance(value, list) else [value]),
  ),
  "forced_eos_token_id": (
    "a token id or a list of one",
    lambda value: bool(value) if isinstance(value, list) else True,
  ),
  "bad_words_ids": (
    "a list of lists of token ids, none of them empty",
    lambda value: (
      isinstance(value, list) and all(_are_ids(word) and word for word in value)
    ),
  ),
  **dict.fromkeys(
    ("suppress_tokens", "begin_suppress_tokens"),
    ("a list of token ids", _are_ids),
  ),
  **dict.fromkeys(
    (
      "diversity_penalty",
      "length_penalty",
      "min_p",
      "no_repeat_ngram_size",
      "num_beam_groups",
      "num_beams",
      "repetition_penalty",
      "temperature",
      "top_k",
      "top_p",
      "typical_p",
    ),
    ("a number", lambda value: type(value) in (int, float)),
  ),
  **dict.fromkeys(
    ("do_sample", "force_bos_token_to_be_generated"),
    ("true or false", lambda value: isinstance(value, bool)),
  ),
}

# Field of the constraints -> the option that says it.
_NAMES = {
  "ends": "eos_token_id",
  "first": "forced_bos_token_id",
  "last": "forced_eos_token_id",
  "suppressed": "suppress_tokens",
  "suppressed_first": "begin_suppress_tokens",
}

# What beams call as `transformers` does.
_BEAM = ("early_stopping", "length_penalty", "num_beams")
# What `transformers` takes where tokens are drawn and nothing is said.
_TOP_K = 50
# Whose decoders start from the padding token, said or not.
_STARTS_FROM_PADDING = ("t5", "mt5", "switch_transformers")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
  """How a model generates text.

  Attributes:
    start_id: the token before the first one of an encoder-decoder's text; None
      for other models.
    constraints: the rest that is told of ids and lengths.
    sampler: chooses tokens unless told otherwise.
    notes: what a user should know of how the files were read, a line each.
  """

  start_id: int | None
  constraints: decoding.Constraints
  sampler: decoding.Greedy | decoding.Sample | decoding.Beam
  notes: tuple[str, ...] = ()


# Of a directory without config.json.
UNSAID = Generation(
  start_id=0, constraints=decoding.Constraints(), sampler=decoding.GREEDY
)


def read(
  directory: pathlib.Path,
  *,
  is_encoder_decoder: bool,
  vocab_size: int,
  ignore: Collection[str] = (),
) -> Generation:
  """Reads what stands beside a model's weights.

  Args:
    directory: with config.json and perhaps generation_config.json.
    is_encoder_decoder: whether the model is one.
    vocab_size: of the model; ids must be below.
    ignore: options that are not to be read.

  Raises:
    ValueError: an option that is not supported, by name; an id that the model
      does not have; an encoder-decoder without a start token.
  """
  fallback = _values(directory / config_json.NAME, ignore)
  values = {k: v for k, v in said(directory).items() if k not in ignore}
  path = directory / NAME
  path = path if path.exists() else directory / config_json.NAME
  _check(values, path)
  start_id, notes = None, []
  if is_encoder_decoder:
    start_id, notes = _start(values, fallback, path)
  try:
    found = Generation(
      start_id=start_id,
      constraints=_constraints(values, fallback),
      sampler=_sampler(values),
      notes=tuple(notes),
    )
  except (TypeError, ValueError) as error:
    raise ValueError(f"{path}: {error}") from None
  ids = {_NAMES[k]: among for k, among in found.constraints.ids().items()}
  ids["decoder_start_token_id"] = () if start_id is None else (start_id,)
  for name, among in ids.items():
    if max(among, default=0) >= vocab_size:
      raise ValueError(
        f"{path}: {name} is {max(among)}, but the model has {vocab_size} ids: "
        "correct it there"
      )
  return found


def said(directory: pathlib.Path) -> dict[str, Any]:
  """Returns what a directory's files say of how text is generated."""
  if (directory / NAME).exists():
    return _values(directory / NAME)
  asked = _HONOURED | _UNSUPPORTED.keys() | _UNSUPPORTED_SAMPLING.keys()
  values = _values(directory / config_json.NAME)
  return {name: value for name, value in values.items() if name in asked}


def options(directory: pathlib.Path) -> set[str]:
  """Returns the names that `read` may ignore: those that the files say."""
  ids = {"bos_token_id", "decoder_start_token_id", "eos_token_id"}
  asked = ids if (directory / NAME).exists() else ids | _WITHOUT_EFFECT
  asked = _values(directory / config_json.NAME).keys() & asked
  return asked | said(directory).keys()


def _values(path, ignore=()) -> dict[str, Any]:
  """Returns the options of a file that are said, and not ignored."""
  values = json_text.read(path) if path.exists() else {}
  return {
    name: value
    for name, value in values.items()
    if value is not None and name not in ignore
  }


def _check(values, path):
  """Refuses options that are not supported, and values that are no such."""
  neutral = dict(_UNSUPPORTED)
  if values.get("do_sample"):
    neutral |= _UNSUPPORTED_SAMPLING
  known = _HONOURED | _WITHOUT_EFFECT | _UNSUPPORTED_SAMPLING.keys()
  refused = {
    name: value
    for name, value in sorted(values.items())
    if (name in neutral and value != neutral[name])
    or (name not in neutral and name not in known)
  }
  if refused:
    said = ", ".join(f"{name} = {value!r}" for name, value in refused.items())
    raise ValueError(
      f"{path} has options that are not supported: {said}; remove them there, "
      f"or go without: --ignore={','.join(refused)}"
    )
  for name, (what, is_right) in _KINDS.items():
    if name in values and not is_right(values[name]):
      raise ValueError(f"{path}: {name} ({values[name]!r}) must be {what}")


def _start(values, fallback, path) -> tuple[int, list[str]]:
  """Returns an encoder-decoder's start token, and what is to be told of it."""
  for origin in (values, fallback):
    for name in ("decoder_start_token_id", "bos_token_id"):
      if name not in origin:
        continue
      found, trained = origin[name], fallback.get("decoder_start_token_id")
      if not isinstance(found, int) or isinstance(found, bool) or found < 0:
        raise ValueError(f"{path}: {name} is {found!r}, not a token id")
      if trained in (None, found):
        return found, []
      return found, [
        f"decoders start from {found}, as {path.name} has it, though "
        f"{config_json.NAME} says decoder_start_token_id = {trained}"
      ]
  if fallback.get("model_type") in _STARTS_FROM_PADDING:
    pad = fallback.get("pad_token_id", 0)
    return pad, [
      f"{config_json.NAME} says no decoder_start_token_id: decoders start from "
      f"the padding token, {pad}"
    ]
  raise ValueError(
    f"{path} says neither decoder_start_token_id nor bos_token_id: write there "
    "what the decoder starts from"
  )


def _constraints(values, fallback) -> decoding.Constraints:
  ends = values.get("eos_token_id", fallback.get("eos_token_id", ()))
  ends = tuple(ends) if isinstance(ends, list | tuple) else (ends,)
  first, last = (values.get(f"forced_{end}_token_id") for end in ("bos", "eos"))
  if first is None and values.get("force_bos_token_to_be_generated"):
    first = values.get("bos_token_id")
  if isinstance(last, list):
    if len(last) > 1:
      raise ValueError(
        f"forced_eos_token_id has {len(last)} ids, {last}: keep one"
      )
    last = last[0]
  words = values.get("bad_words_ids", ())
  bad = {word[0] for word in words if len(word) == 1} - {*ends}
  phrases = sorted(tuple(word) for word in words if len(word) > 1)
  repetition = decoding.Repetition(
    penalty=values.get("repetition_penalty", 1.0),
    no_repeat_ngram_size=values.get("no_repeat_ngram_size", 0),
  )
  return decoding.Constraints(
    ends=ends,
    first=first,
    last=last,
    suppressed=(*values.get("suppress_tokens", ()), *sorted(bad)),
    suppressed_first=values.get("begin_suppress_tokens", ()),
    min_length=values.get("min_length", 0),
    min_new_tokens=values.get("min_new_tokens", 0),
    max_length=values.get("max_length"),
    max_new_tokens=values.get("max_new_tokens"),
    repetition=None if repetition == decoding.Repetition() else repetition,
    phrases=decoding.Phrases(banned=phrases) if phrases else None,
  )


def _sampler(values) -> decoding.Greedy | decoding.Sample | decoding.Beam:
  sample = None
  if values.get("do_sample"):
    top_p, typical_p = (values.get(n, 1.0) for n in ("top_p", "typical_p"))
    sample = decoding.Sample(
      temperature=values.get("temperature", 1.0),
      top_k=values.get("top_k", _TOP_K) or None,
      top_p=top_p if top_p < 1 else None,
      min_p=values.get("min_p") or None,
      typical_p=typical_p if typical_p < 1 else None,
    )
  if values.get("num_beams", 1) == 1:
    return sample or decoding.GREEDY
  names = *_BEAM, "diversity_penalty"
  given = {name: values[name] for name in names if name in values}
  groups = values.get("num_beam_groups", 1)
  return decoding.Beam(sample=sample, groups=groups, **given)


def describe(
  constraints: decoding.Constraints,
  sampler: Any,
  *,
  eos_id: int,
  start_id: int,
  is_encoder_decoder: bool,
) -> dict[str, Any]:
  """Returns the options that say again what `read` found, None for no more.

  Args:
    constraints, sampler: of a run.
    eos_id, start_id: of its vocabulary.
    is_encoder_decoder: whether the model is one.
  """
  ends = list(constraints.end_ids(eos_id))
  repetition = constraints.repetition or decoding.Repetition()
  phrases = constraints.phrases or decoding.Phrases()
  start = "decoder_start_token_id" if is_encoder_decoder else "bos_token_id"
  options = {
    start: start_id,
    "eos_token_id": ends[0] if len(ends) == 1 else ends,
    "forced_bos_token_id": constraints.first,
    "forced_eos_token_id": constraints.last,
    "suppress_tokens": list(constraints.suppressed) or None,
    "begin_suppress_tokens": list(constraints.suppressed_first) or None,
    # Those of one token are among the suppressed ones.
    "bad_words_ids": list(map(list, phrases.banned)) or None,
    "no_repeat_ngram_size": repetition.no_repeat_ngram_size or None,
    "repetition_penalty": repetition.penalty,
    "min_length": constraints.min_length or None,
    "min_new_tokens": constraints.min_new_tokens or None,
    "max_length": constraints.max_length,
    "max_new_tokens": constraints.max_new_tokens,
  }
  if isinstance(sampler, decoding.Greedy | decoding.Sample | decoding.Beam):
    options |= _described_sampler(sampler)
  return options


def _described_sampler(sampler) -> dict[str, Any]:
  further = ("diversity_penalty", "do_sample", "num_beam_groups")
  options = dict.fromkeys((*_BEAM, *further))
  if isinstance(sampler, decoding.Beam):
    if sampler.length_norm != "power":
      raise ValueError(
        f"length_norm ({sampler.length_norm!r}) has no name in {NAME}: set "
        "Beam.length_norm='power'"
      )
    options |= {name: getattr(sampler, name) for name in _BEAM}
    if sampler.groups > 1:
      options["num_beam_groups"] = sampler.groups
      options["diversity_penalty"] = sampler.diversity_penalty
    sampler = sampler.sample
  if isinstance(sampler, decoding.Sample):
    options |= {
      "do_sample": True,
      "temperature": sampler.temperature,
      "top_k": sampler.top_k or 0,
      "top_p": sampler.top_p or 1.0,
      "min_p": sampler.min_p,
      "typical_p": sampler.typical_p,
    }
  return options


def text(options: Mapping[str, Any], like: Mapping[str, Any]) -> str:
  """Returns a generation_config.json: an earlier one, with these options."""
  merged = {**like, **options}
  merged = {name: value for name, value in merged.items() if value is not None}
  return json.dumps(merged, indent=2, sort_keys=True) + "\n"
