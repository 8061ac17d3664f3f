"""Reads and writes Hugging Face directories: config.json and safetensors.

    config.json  -> families/NAME.read  -> Transformer -> shapes and shardings
    *.safetensors -> families/NAME.TENSORS -> one tensor at a time -> parameters

Neither torch nor `transformers` is needed, and no initial weights are drawn.
"""

import dataclasses
import functools
import math
import os
import pathlib
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from t5x_lite.devices.layout import Layout
from t5x_lite.files import trees
from t5x_lite.interop import (
  config,
  families,
  placing,
  safetensors_files,
  settings,
  tables,
)
from t5x_lite.interop.safetensors_files import FLOATS, Planned, Weights
from t5x_lite.model import Batch, Model, Params
from t5x_lite.nn.transformer import Transformer

# Of a model that differs less, the tensors that do not fit are named.
_MANY_TIMES = 10


@dataclasses.dataclass(frozen=True)
class Loaded:
  """A model with its parameters.

  Attributes:
    model: to compute or to train with.
    params: plain nested dict.
    model_type: the family, as config.json names it.
    options: config.json as it was.
    notes: what a user should know of how the files were read, a line each.
  """

  model: Model
  params: Params
  model_type: str
  options: Mapping[str, Any]
  notes: tuple[str, ...] = ()

  def logits(self, batch: Batch) -> jax.Array:
    """Returns float32 logits [B, T, V].

    Args:
      batch: int32 arrays [B, length] under seqio's names: of an
        encoder-decoder `encoder_input_tokens` and `decoder_input_tokens`, of
        others one of the two. Without `encoder_segment_ids`, an encoder takes
        config.json's pad_token_id for padding.
    """
    batch = dict(batch)
    pad = self.options.get("pad_token_id")
    tokens = batch.get("encoder_input_tokens")
    if tokens is not None and pad is not None:
      padding = jnp.asarray(tokens) != pad
      batch.setdefault("encoder_segment_ids", padding.astype(jnp.int32))
    return self._logits(self.params, batch)

  @functools.cached_property
  def _logits(self):
    return jax.jit(self.model.logits)


def load_hf(
  directory: str | os.PathLike,
  *,
  layout: Layout | None = None,
  dtype: str = "float32",
  param_dtype: str | None = "float32",
  scan: bool = False,
) -> Loaded:
  """Loads a model that `transformers` saved.

  Args:
    directory: with config.json and safetensors files.
    layout: spreads the parameters over devices, each getting its part alone;
      None means the first device.
    dtype: of the activations.
    param_dtype: of the parameters; None keeps that of the files.
    scan: whether layers are stacked, [L, ...] (Stack.scan).

  Raises:
    ValueError: a family or an option that is not supported, by name; a file
      missing or damaged, by name; tensors missing (-), unexpected (+), or of
      another shape or dtype than config.json says.
  """
  directory = pathlib.Path(directory).expanduser()
  options = config.read(directory)
  weights = Weights(directory)
  types = families.by_model_type()
  model_type = config.known(options, "model_type", types)
  family = types[model_type]
  weights.rename(family.TENSORS.renames)
  origin = str(directory / config.NAME)
  transformer = _read(family, options, origin, weights)
  stacks = {
    side: stack.clone(scan=scan)
    for side in ("encoder", "decoder")
    if (stack := getattr(transformer, side)) is not None
  }
  model = Model(transformer=transformer.clone(dtype=dtype, **stacks))
  _check_size(model, weights, origin)
  table = families.tensors(family, transformer)
  links = tables.link(table, model.abstract())
  _check(directory, links, table, weights)
  dtypes = {}
  for link in links:
    saved = FLOATS[weights.dtypes[link.theirs]]
    dtypes |= {slot.path: param_dtype or saved for slot in link.slots}

  def parts():
    for link in links:
      ours = link.split(weights.read(link.theirs))
      yield from zip(link.slots, ours, strict=True)

  params = placing.place(parts(), placing.on(model, dtypes, layout))
  notes = _notes(directory, options, transformer, table, weights)
  return Loaded(model, params, model_type, options, notes)


def _notes(directory, options, transformer, table, weights) -> tuple[str, ...]:
  """Tells where the weights, and not config.json, have decided."""
  if options.get("tie_word_embeddings") is not False:
    return ()
  heads = [entry.theirs for entry in table.entries if entry.ours == "head"]
  if not transformer.lm_head.tied or heads[0] in weights.shapes:
    return ()
  return (
    f"{directory} has no {heads[0]}, though its {config.NAME} says"
    " tie_word_embeddings: false: the head is the embedding, as transformers 5"
    " reads it",
  )


def _read(
  family: ModuleType, options: Mapping, origin: str, names: config.Names
) -> Transformer:
  """Builds the Transformer of a config.json, all of which must be read."""
  found = config.Config(options, origin, names)
  found.text("model_type")
  try:
    transformer = family.read(found)
  except ValueError as error:
    # What the parts themselves refuse does not say where it stands.
    if str(error).startswith(origin):
      raise
    raise ValueError(f"{origin}: {error}") from None
  found.finish()
  return transformer


def _check_size(model: Model, weights: Weights, origin: str):
  """Refuses a model that is many times larger than its weights.

  Counted with scanned layers, of which one is traced, however many there are.
  """
  scanned = {
    side: stack.map_stacks(lambda one: one.clone(scan=True))
    for side in ("encoder", "decoder")
    if (stack := getattr(model.transformer, side)) is not None
  }
  scanned = Model(transformer=model.transformer.clone(**scanned))
  leaves = jax.tree.leaves(scanned.abstract())
  size = sum(math.prod(leaf.shape) for leaf in leaves)
  if size > _MANY_TIMES * weights.num_elements:
    raise ValueError(
      f"{origin} describes {size:,} parameters, but the weights beside it are "
      f"only {weights.num_elements:,} numbers: correct one of them"
    )


def _check(directory, links, table: tables.Table, weights: Weights):
  """Refuses tensors that are not those of the model."""
  wanted = {link.theirs: link.shape for link in links}
  there, repeated = dict(weights.shapes), []
  for name in sorted(there.keys() - wanted.keys()):
    if any(re.fullmatch(pattern, name) for pattern in table.unread):
      del there[name]
    elif of := table.copies.get(name):
      del there[name]
      if not weights.tied(name, of):
        repeated.append(f"{name} differs from {of}, which it should repeat")
  found = trees.differences(wanted, there) + repeated
  found += [
    f"{name} is {weights.dtypes[name]}, wanted one of {', '.join(FLOATS)}"
    for name in wanted
    if weights.dtypes.get(name, "F32") not in FLOATS
  ]
  if found:
    raise ValueError(
      f"the weights in {directory} do not fit its {config.NAME} (- missing in"
      f" them, + only in them): {trees.listed(found)}"
    )


def save_hf(
  model: Model,
  params: Params,
  directory: str | os.PathLike,
  *,
  shard_bytes: int = 5_000_000_000,
  family: str | None = None,
  like: Mapping[str, Any] | None = None,
):
  """Saves a model so that `transformers` and `load_hf` read it.

  Args:
    model: layers scanned or not.
    params: of the model; tensors keep their dtypes.
    directory: made if need be; must hold no weights yet.
    shard_bytes: no file gets larger, unless a single tensor is.
    family: the model_type to write; None takes the first, in the order of
      families/, that can say all that the model computes.
    like: an earlier config.json, `Loaded.options`: what it says that has no
      effect on the logits is kept, such as eos_token_id.

  Raises:
    ValueError: no family can say what the model computes, or not this one;
      the parameters are not the model's; the directory cannot be written to.
  """
  directory = pathlib.Path(directory).expanduser()
  model_type, options = described(model.transformer, family)
  module = families.by_model_type()[model_type]
  table = families.tensors(module, model.transformer)
  leaves = trees.named_leaves(params)
  _check_params(leaves, trees.named_leaves(model.abstract()))
  links = {link.theirs: link for link in tables.link(table, params)}

  def planned(link):
    dtype = leaves[link.slots[0].path].dtype
    return Planned(link.theirs, link.shape, str(dtype))

  def gathered(name):
    link = links[name]
    parts = [placing.take(slot, leaves[slot.path]) for slot in link.slots]
    return link.join(parts)

  if jax.process_index():
    for name in links:  # The first process writes what all gather.
      gathered(name)
    return
  plan = [planned(link) for link in links.values()]
  safetensors_files.write(directory, plan, gathered, shard_bytes=shard_bytes)
  kept = config.carried(like or {})
  config.write(
    directory,
    # Of token ids a family knows but the usual ones.
    {**kept, **options, **config.token_ids(kept), "dtype": plan[0].dtype},
  )


def _check_params(leaves: Mapping[str, Any], wanted: Mapping[str, Any]):
  """Refuses parameters that are not those of the model."""
  found = trees.differences(
    {name: leaf.shape for name, leaf in wanted.items()},
    {name: leaf.shape for name, leaf in leaves.items()},
  )
  if found:
    raise ValueError(
      "the parameters are not the model's (- missing, + unexpected): "
      f"{trees.listed(found)}"
    )


def described(
  transformer: Transformer, family: str | None = None
) -> tuple[str, dict[str, Any]]:
  """Returns the model_type and the options that say all of a Transformer.

  Raises:
    ValueError: no family can, or not the one that is named.
  """
  types = families.by_model_type()
  if family is not None:
    if family not in types:
      raise ValueError(
        f"family={family} is not supported: only {', '.join(types)}"
      )
  refusals: list[tuple[float, str, str]] = []
  for model_type in [family] if family else types:
    module = types[model_type]
    try:
      options = {
        "model_type": model_type,
        "architectures": [module.MODEL_TYPES[model_type]],
        **module.write(transformer),
      }
      there = _read(module, options, config.NAME, _Written(transformer))
    except (AttributeError, KeyError):
      # It looked for parts that this architecture does not have.
      why = "its models are made of other parts"
      refusals.append((math.inf, model_type, why))
      continue
    except ValueError as error:
      refusals.append((math.inf, model_type, str(error)))
      continue
    found = settings.differences(transformer, there)
    if not found:
      return model_type, options
    refusals.append((len(found), model_type, trees.listed(found, 4)))
  _, nearest, why = min(refusals)
  if family:
    raise ValueError(
      f"family={family} cannot say what the model computes: {why}"
    )
  raise ValueError(
    f"no family can say what the model computes; the nearest, {nearest}: {why}"
  )


@dataclasses.dataclass(frozen=True)
class _Written:
  """Answers for weights yet to be written."""

  transformer: Transformer
  num_tensors = math.inf

  def tied(self, name: str, to: str) -> bool:
    del name, to
    return self.transformer.lm_head.tied
