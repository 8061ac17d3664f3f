"""Defines the jobs: Generate a continuation of a text, or Score targets.

A job encodes a record of texts as token ids, computes a batch of them, and
decodes the results as new fields of the record. `infer` runs jobs.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from t5x_lite import checks, decoding
from t5x_lite.data import sentinels
from t5x_lite.devices import memory
from t5x_lite.files.text_files import Record
from t5x_lite.inference import stop_strings
from t5x_lite.inference.codec import Codec
from t5x_lite.model import Batch, Params

# New tokens whose keys and values are not worth counting.
_ALWAYS_FITS = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generate:
  """Generates a prediction for each {"inputs": ...} or {"text": ...}.

  Adds "prediction", "log_likelihood" (of its tokens, in nats) and "num_tokens"
  (EOS included). If the text has blanks, adds "filled", the text with the
  blanks filled in. An encoder's "prediction" is that text. An encoder's and
  GLM's results also have "token_log_likelihoods", in the order of the text.
  A record's samples depend only on the seed and its place in the file.

  Attributes:
    model: predicts the tokens.
    codec: encodes and decodes texts.
    max_new_tokens: None takes the constraints' length, or else the length of
      the task's targets, but at most half of a length shared with the inputs.
      For an encoder, the maximum number of masks.
    sampler: chooses tokens.
    constraints: the constraints on predictions; max_new_tokens overrides their
      lengths.
    seed: the seed of the sampler.
    stop: strings before which a text ends; they may span tokens.
    draft_params: the parameters of the draft model of `Assisted`.
    caching: how keys and values are kept and long prompts read; None: as the
      model does.
  """

  model: decoding.Predictor
  codec: Codec
  max_new_tokens: checks.Count | None = None
  sampler: decoding.Strategy = decoding.Greedy()
  constraints: decoding.Constraints = decoding.UNCONSTRAINED
  seed: int = 0
  stop: Sequence[str] = ()
  draft_params: Params | None = dataclasses.field(default=None, repr=False)
  caching: decoding.Caching | None = None

  def __post_init__(self):
    checks.fields(self)
    object.__setattr__(self, "stop", tuple(self.stop))
    if "" in self.stop:
      raise ValueError("stop='' is empty: give the text to stop at")
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
    self._check_blanks()
    if hasattr(self.strategy, "check_constraints"):
      self.strategy.check_constraints(self.constraints)
    needed = self.codec.blanks.decoder_positions(self.lengths)
    self.codec.check_positions(self.model, needed)
    self.constraints.check_length(self.max_new_tokens)
    _check_memory(self.model, self.max_new_tokens)

  def _check_blanks(self):
    """Refuses what has no meaning where given blanks are filled."""
    if self.codec.blanks.is_free:
      return
    if hasattr(self.sampler, "search"):
      raise ValueError(
        f"{type(self.sampler).__name__} generates a whole text, but this model "
        "fills blanks token by token: leave out num_beams, penalty_alpha, "
        "prompt_lookup_num_tokens and assistant, or run.Run.sampler"
      )
    if self.stop:
      raise ValueError(
        f"stop={self.stop[0]!r} ends a text, but this model fills the blanks "
        "of one: leave it out"
      )
    if self.caching is not None:
      raise ValueError(
        f"{self.caching} is for models that write a text, and this one fills "
        "the blanks of one: leave out cache_dtype and prefill_chunk_size"
      )
    limit = self._blank_positions
    if limit is not None and self.max_new_tokens > limit:
      raise ValueError(
        f"max_new_tokens ({self.max_new_tokens}) is more than a blank has "
        f"positions, Learned2D.max_blank ({limit}): lower it"
      )

  @property
  def strategy(self) -> decoding.Strategy:
    """Returns how a text is generated, or its blanks filled."""
    vocabulary = self.codec.targets.vocabulary
    return self.codec.blanks.strategy(self.sampler, vocabulary)

  def _default_length(self):
    length = self.codec.lengths["targets"]
    if self.constraints.max_new_tokens is not None:
      length = self.constraints.max_new_tokens
    elif self.constraints.max_length is not None:
      length = self.constraints.max_length - 1  # Without the start token.
    if self.codec.shared is not None:
      length = min(length, max(self.codec.shared // 2, 1))
    return min(length, self._blank_positions or length)

  @property
  def _blank_positions(self):
    """Returns the learned positions within a blank, or None."""
    stack = getattr(getattr(self.model, "transformer", None), "decoder", None)
    return getattr(getattr(stack, "position", None), "max_blank", None)

  @property
  def _prompt_length(self):
    return self.codec.room_for_inputs(self.max_new_tokens)

  @property
  def lengths(self) -> dict[str, int]:
    return {"inputs": self._prompt_length, "targets": self.max_new_tokens}

  def encode(self, record: Record) -> Mapping[str, np.ndarray]:
    text, limit = _text(record, "inputs", "text"), self._prompt_length
    example = self.codec.blanks.encode(self.codec, text, record.place, limit)
    self._check_room(example, record.place)
    return example

  def _check_room(self, example, place):
    """Refuses a prompt that is empty, or leaves too few tokens."""
    prompt, masks = example["inputs"], sum(example.get("weights", ()))
    if masks > self.max_new_tokens:
      raise ValueError(
        f"{place}: the text has {masks} masks, more than max_new_tokens "
        f"({self.max_new_tokens}): raise it or leave it out"
      )
    if not len(prompt) and self.codec.needs_prompt:
      raise ValueError(
        f"{place}: the prompt is empty, and an encoder reads at least one "
        "token: give a text"
      )
    most = self.constraints.max_length
    if most is None or not self.codec.row_format.shares_row:
      return
    length = len(prompt) + self.codec.num_start_tokens(prompt)
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
      caching=self.caching,
      draft_params=self.draft_params,
      **self._arguments(row_ids),
    ).arrays()

  def compute_continuously(self, params, batch, row_ids, *, rows):
    """Returns what `compute` does, but decodes so many rows at a time."""
    return decoding.generate_continuously(
      self.model,
      params,
      batch,
      rows=rows,
      caching=self.caching or decoding.Caching(),
      **self._arguments(row_ids),
    ).arrays()

  def _arguments(self, row_ids):
    return dict(
      max_new_tokens=self.max_new_tokens,
      sampler=self.strategy,
      # Always Threefry: its samples do not depend on batching.
      key=jax.random.key(self.seed, impl="threefry2x32"),
      eos_id=sentinels.eos_id(self.codec.targets.vocabulary),
      constraints=self.constraints,
      row_ids=row_ids,
      drawable=self.codec.blanks.drawable(self.codec.targets.vocabulary),
      stops=self._stops,
    )

  @functools.cached_property
  def _stops(self) -> decoding.Stops | None:
    vocabulary = self.codec.targets.vocabulary
    return stop_strings.stops(self.stop, vocabulary)

  def read(self, tokens: Sequence[int]) -> tuple[str, int | None]:
    """Returns the text of predicted tokens; see `stop_strings.cut`."""
    return stop_strings.cut(tokens, self._decode, self.stop)

  def _decode(self, tokens) -> str:
    if len(tokens) and tokens[-1] in self.constraints.ends:
      tokens = tokens[:-1]  # The vocabulary only removes its own EOS.
    return self.codec.decode(tokens)

  def result(self, fields, row) -> dict[str, Any]:
    if row["lengths"].ndim:  # Several texts, the best first.
      sequences = [
        self._result(fields, {name: x[i] for name, x in row.items()})
        for i in range(len(row["lengths"]))
      ]
      return {**fields, **sequences[0], "sequences": sequences}
    return {**fields, **self._result(fields, row)}

  def _result(self, fields, row):
    length, blanks = int(row["lengths"]), self.codec.blanks
    given = fields.get("inputs", fields.get("text"))
    if blanks.is_free:
      prediction, stopped = self.read(row["tokens"][:length])
      length = length if stopped is None else stopped
      texts = blanks.fill(self.codec, given, prediction)
    else:
      ends = self.constraints.end_ids(
        sentinels.eos_id(self.codec.targets.vocabulary)
      )
      tokens = row["tokens"][:length].tolist()
      texts = blanks.texts(
        self.codec, given, tokens, ends=ends, limit=self._prompt_length
      )
    log_probs = row["log_probs"][:length]
    result = {
      "prediction": texts["prediction"],
      "log_likelihood": _rounded(log_probs.sum()),
      "num_tokens": length,
    }
    if not blanks.is_free:
      result["token_log_likelihoods"] = [_rounded(x) for x in log_probs]
    return result | texts


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
    if not self.codec.blanks.is_free:
      raise ValueError(
        f"a model of architecture {self.codec.row_format.name} that fills in "
        "masks or blocks (MLM, GLM) gives no log p(targets | inputs): use a "
        "causal, prefix or encoder_decoder model and another objective"
      )
    lengths = self.codec.lengths
    together = lengths["targets"] + lengths.get("inputs", 0)
    self.codec.check_positions(self.model, self.codec.shared or together)

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


def _check_memory(model, max_new_tokens):
  """Refuses a cache that has no room in the memory of a device."""
  if max_new_tokens <= _ALWAYS_FITS or not hasattr(model, "abstract"):
    return
  sides = dict.fromkeys(model.row_format.sides, 1)
  prefill = functools.partial(model.prefill, max_new_tokens=max_new_tokens)
  batch = model.row_format.abstract_batch(1, sides)
  _, state = jax.eval_shape(prefill, model.abstract(), batch)
  needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state))
  available = memory.available_bytes()
  if available is not None and needed > available:
    raise ValueError(
      f"max_new_tokens={max_new_tokens} needs {needed / 2**30:.3g} GiB of keys "
      f"and values per text, and {available / 2**30:.3g} are free: lower it"
    )


def _rounded(x):
  return round(float(x), 6)
