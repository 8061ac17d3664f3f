"""Defines the jobs: Generate a continuation of a text, or Score targets.

A job encodes a record of texts as token ids, computes a batch of them, and
decodes the results as new fields of the record. `infer` runs jobs.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import checks, decoding
from t5x_lite.data import sentinels
from t5x_lite.files.text_files import Record
from t5x_lite.model import Batch, Params
from t5x_lite.row_formats import RowFormat


@dataclasses.dataclass(frozen=True, kw_only=True)
class Codec:
  """Encodes texts as a task does, and decodes tokens.

  Attributes:
    row_format: the model's; it has a decoder.
    inputs: `vocabulary` and `add_eos` of the inputs, as a seqio.Feature.
    targets: the same for the targets.
    lengths: the maximum number of tokens. Without "inputs", inputs and targets
      share "targets" (language models of one text); with "decoder", they share
      that.
    truncate: whether to truncate longer texts rather than refuse them. They are
      truncated as in training (see trimming.py): before EOS, and inputs without
      EOS at their beginning.
    delimiter: the text between inputs and the targets that continue them, if
      neither has white space there.
  """

  row_format: RowFormat
  inputs: Any
  targets: Any
  lengths: Mapping[str, int]
  truncate: bool = False
  delimiter: str = " "

  @property
  def is_pair(self) -> bool:
    """Returns whether inputs have their own length."""
    return "inputs" in self.lengths

  @property
  def shared(self) -> int | None:
    """Returns the length that inputs and targets share, or None."""
    name = "decoder" if self.is_pair else "targets"
    return self.lengths.get(name)

  def room_for_inputs(self, num_targets: int) -> int:
    """Returns the maximum number of input tokens, given the target tokens."""
    if self.shared is None:
      return self.lengths["inputs"]
    left = self.shared - num_targets
    return min(left, self.lengths.get("inputs", left))

  def encode(
    self, name: str, content: str, place: str, limit: int
  ) -> np.ndarray:
    """Returns the token ids of one text, with EOS as in training."""
    with _named(place):
      ids = sentinels.encode(getattr(self, name).vocabulary, content)
    return self._fit(name, ids, place, limit)

  def encode_pair(
    self, given: str, targets: str, place: str
  ) -> tuple[np.ndarray, np.ndarray]:
    """Returns the token ids of inputs and targets, encoded as in training.

    If inputs end with EOS, they and the targets are separate texts. Otherwise
    the targets continue the inputs: see `sentinels.encode_continuation`.
    """
    with _named(place):
      if self.inputs.add_eos:
        ids = (
          sentinels.encode(self.inputs.vocabulary, given),
          sentinels.encode(self.targets.vocabulary, targets),
        )
      else:
        ids = sentinels.encode_continuation(
          self.targets.vocabulary,
          given,
          self._delimiter(given, targets) + targets,
          alone=not self.row_format.shares_row,
        )
    limit = self.lengths["targets"]
    target_ids = self._fit("targets", ids[1], place, limit)
    limit = self.room_for_inputs(len(target_ids))
    input_ids = self._fit("inputs", ids[0], place, limit)
    return input_ids, target_ids

  def _delimiter(self, given, targets) -> str:
    has_space = given[-1:].isspace() or targets[:1].isspace()
    return self.delimiter if given and targets and not has_space else ""

  def _fit(self, name, ids, place, limit) -> np.ndarray:
    """Appends EOS as in training; truncates or refuses long ids."""
    feature = getattr(self, name)
    eos_id = sentinels.eos_id(feature.vocabulary)
    end = [eos_id] if feature.add_eos and eos_id is not None else []
    if len(ids) + len(end) > limit:
      if not self.truncate:
        raise ValueError(
          f"{place}: {name} has {len(ids) + len(end)} tokens, more than the "
          f"maximum of {limit}: shorten it, raise Data.lengths, or set "
          "truncate=True"
        )
      end = end[:limit]
      excess = len(ids) + len(end) - limit
      is_prompt = name == "inputs" and not feature.add_eos
      ids = ids[excess:] if is_prompt else ids[: len(ids) - excess]
    return np.array([*ids, *end], np.int32)

  def starts_with_token(self, prompt: Sequence[int]) -> bool:
    """Returns whether a language model's prompt begins with a start token."""
    bare = getattr(self.targets.vocabulary, "bare_prompts", False)
    return not (bare and len(prompt))

  def decode(self, ids: Sequence[int]) -> str:
    """Returns the text of predicted tokens, up to EOS."""
    return sentinels.decode(self.targets.vocabulary, ids)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate:
  """Generates a prediction for each {"inputs": ...} or {"text": ...}.

  Adds "prediction", "log_likelihood" (of its tokens, in nats) and "num_tokens"
  (EOS included). If the text has blanks, adds "filled", the text with the
  blanks filled in. A record's samples depend only on the seed and its place in
  the file.

  Attributes:
    model: predicts the tokens.
    codec: encodes and decodes texts.
    max_new_tokens: None takes the constraints' length, or else the length of
      the task's targets, but at most half of a length shared with the inputs.
    sampler: chooses tokens.
    constraints: the constraints on predictions; max_new_tokens overrides their
      lengths.
    seed: the seed of the sampler.
  """

  model: decoding.Predictor
  codec: Codec
  max_new_tokens: checks.Count | None = None
  sampler: decoding.Strategy = decoding.Greedy()
  constraints: decoding.Constraints = decoding.UNCONSTRAINED
  seed: int = 0

  def __post_init__(self):
    checks.fields(self)
    if self.max_new_tokens is None:
      object.__setattr__(self, "max_new_tokens", self._default_length())
    else:
      object.__setattr__(self, "constraints", self.constraints.unbounded())
    if self.max_new_tokens < 1:
      raise ValueError(
        f"max_new_tokens ({self.max_new_tokens}) must be at least 1"
      )
    if self._prompt_length < 1:
      raise ValueError(
        f"max_new_tokens ({self.max_new_tokens}) leaves no room for a prompt "
        f"in a length of {self.codec.shared}"
      )
    vocabulary = self.codec.targets.vocabulary
    self.constraints.check(
      sentinels.known_ids(vocabulary),
      self.constraints.end_ids(sentinels.eos_id(vocabulary)),
    )
    _check_positions(self.model, self.codec, sum(self.lengths.values()))

  def _default_length(self):
    length = self.codec.lengths["targets"]
    if self.constraints.max_new_tokens is not None:
      length = self.constraints.max_new_tokens
    elif self.constraints.max_length is not None:
      length = self.constraints.max_length - 1  # Without the start token.
    if self.codec.shared is not None:
      length = min(length, max(self.codec.shared // 2, 1))
    return length

  @property
  def _prompt_length(self):
    return self.codec.room_for_inputs(self.max_new_tokens)

  @property
  def lengths(self) -> dict[str, int]:
    return {"inputs": self._prompt_length, "targets": self.max_new_tokens}

  def encode(self, record: Record) -> Mapping[str, np.ndarray]:
    prompt = self.codec.encode(
      "inputs",
      _text(record, "inputs", "text"),
      record.place,
      self._prompt_length,
    )
    self._check_room(prompt, record.place)
    return {"inputs": prompt, "targets": np.zeros(0, np.int32)}

  def _check_room(self, prompt, place):
    """Refuses a prompt that leaves no token before max_length."""
    most = self.constraints.max_length
    if most is None or not self.codec.row_format.shares_row:
      return
    length = len(prompt) + self.codec.starts_with_token(prompt)
    if length >= most:
      raise ValueError(
        f"{place}: the prompt has {length} tokens, but the model's max_length "
        f"is {most}, prompt included: shorten it or set max_new_tokens"
      )

  def compute(self, params, batch, row_ids):
    return decoding.generate(
      self.model,
      params,
      batch,
      max_new_tokens=self.max_new_tokens,
      sampler=self.sampler,
      # Always Threefry: its samples do not depend on batching.
      key=jax.random.key(self.seed, impl="threefry2x32"),
      eos_id=sentinels.eos_id(self.codec.targets.vocabulary),
      constraints=self.constraints,
      row_ids=row_ids,
      drawable=sentinels.known_ids(self.codec.targets.vocabulary),
    )._asdict()

  def result(self, fields, row) -> dict[str, Any]:
    length = int(row["lengths"])
    tokens = row["tokens"][:length]
    if length and tokens[-1] in self.constraints.ends:
      tokens = tokens[:-1]  # The vocabulary only removes its own EOS.
    prediction = self.codec.decode(tokens)
    result = {
      **fields,
      "prediction": prediction,
      "log_likelihood": _rounded(row["log_probs"][:length].sum()),
      "num_tokens": length,
    }
    given = fields.get("inputs", fields.get("text"))
    if sentinels.has_sentinels(given):
      result["filled"] = sentinels.fill(
        self.codec.targets.vocabulary, given, prediction
      )
    return result


class Scorer(Protocol):
  """A model that scores tokens, such as `Model`; hashable."""

  def logits(self, params: Params, batch: Batch) -> jax.Array:
    """Returns float32 logits [B, T, V]."""

  def score(self, params: Params, batch: Batch) -> jax.Array:
    """Returns each row's log-likelihood of its weighted targets [B]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Score:
  """Scores given targets by their log-likelihood, log p(targets | inputs).

  p is the softmax over all of the model's ids, those that pad its vocabulary
  included.

  Records have "targets" and "inputs". For a decoder-only model, inputs are
  optional, and a record with only "text" is scored as a whole.
  `Codec.encode_pair` documents how targets continue inputs. EOS is scored if it
  is part of the targets in training. Adds "log_likelihood" in nats,
  "num_tokens" and "log_likelihood_per_token".

  Attributes:
    model: scores the tokens.
    codec: encodes texts.
    per_token: also add "token_log_likelihoods", a list; needs memory for all
      logits of a batch.
  """

  model: Scorer
  codec: Codec
  per_token: bool = False

  def __post_init__(self):
    checks.fields(self)
    lengths = self.codec.lengths
    together = lengths["targets"] + lengths.get("inputs", 0)
    _check_positions(self.model, self.codec, self.codec.shared or together)

  @property
  def lengths(self) -> dict[str, int]:
    lengths = self.codec.lengths
    return {"inputs": lengths["targets"], **lengths}

  def encode(self, record: Record) -> Mapping[str, np.ndarray]:
    codec, fields = self.codec, record.fields
    if codec.row_format.shares_row and "targets" not in fields:
      targets, given = _text(record, "targets", "text"), None
    else:
      targets = _text(record, "targets")
      given = _text(record, "inputs", "text")
    if given is None:
      limit = codec.lengths["targets"]
      ids = codec.encode("targets", targets, record.place, limit)
      return {"inputs": np.zeros(0, np.int32), "targets": ids}
    inputs, ids = codec.encode_pair(given, targets, record.place)
    return {"inputs": inputs, "targets": ids}

  def compute(self, params, batch, row_ids):
    del row_ids
    return _score(self.model, params, batch, per_token=self.per_token)

  def result(self, fields, row) -> dict[str, Any]:
    weights = row["weights"] > 0
    num_tokens = int(weights.sum())
    result = {
      **fields,
      "log_likelihood": _rounded(row["scores"]),
      "num_tokens": num_tokens,
      "log_likelihood_per_token": _rounded(row["scores"] / max(num_tokens, 1)),
    }
    if self.per_token:
      result["token_log_likelihoods"] = [
        _rounded(x) for x in row["log_probs"][weights]
      ]
    return result


@functools.partial(jax.jit, static_argnums=0, static_argnames="per_token")
def _score(model, params, batch, *, per_token):
  out = {"weights": batch["decoder_loss_weights"]}
  if not per_token:
    return {**out, "scores": model.score(params, batch)}
  log_probs = jnp.take_along_axis(
    jax.nn.log_softmax(model.logits(params, batch)),
    batch["decoder_target_tokens"][..., None],
    axis=-1,
  )[..., 0]
  scores = jnp.sum(log_probs * out["weights"], axis=-1)
  return {**out, "scores": scores, "log_probs": log_probs}


@contextlib.contextmanager
def _named(place):
  """Adds a record's place to an error message."""
  try:
    yield
  except ValueError as error:
    raise ValueError(f"{place}: {error}") from None


def _text(record, *names):
  """Returns the first of the named fields that a record has."""
  for name in names:
    if name in record.fields:
      value = record.fields[name]
      if not isinstance(value, str):
        raise ValueError(
          f"{record.place}: field {name!r} must be a text, not {value!r:.40}"
        )
      return value
  wanted = " or ".join(repr(name) for name in names)
  found = ", ".join(repr(name) for name in record.fields) or "none"
  raise ValueError(f"{record.place}: no field {wanted}; its fields: {found}")


def _check_positions(model, codec, decoder_length):
  """Refuses lengths beyond the learned position embeddings."""
  needed = {"encoder": codec.lengths.get("inputs"), "decoder": decoder_length}
  if not codec.row_format.shares_row:
    needed["decoder"] -= needed["encoder"]
    if getattr(codec.targets.vocabulary, "begin_id", None) is not None:
      needed = {
        "encoder": needed["encoder"] + 2,
        "decoder": needed["decoder"] + 1,
      }
  for side, length in needed.items():
    stack = getattr(getattr(model, "transformer", None), side, None)
    limit = getattr(getattr(stack, "position", None), "max_length", None)
    if limit is not None and length > limit:
      raise ValueError(
        f"the {side} needs {length} positions, but the model has {limit} "
        "learned ones: lower the lengths or max_new_tokens"
      )


def _rounded(x):
  return round(float(x), 6)
