"""Initialises parameters from another run's checkpoint, with renames.

source                       renames (("^enc/", "encoder/"),)   params
enc/layer_0/mlp/wi   ->   encoder/layer_0/mlp/wi   ->   the same leaf
enc/layer_1/mlp/wi   ->   encoder/layer_1/mlp/wi  }     encoder/layers/mlp/wi
...                                               }  -> [L, ...], stacked
"""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging
from etils import epath

from t5x_lite.checkpoints import manager, saved_step
from t5x_lite.checkpoints.spec import WarmStart
from t5x_lite.files import trees

Tree = Any

# The vocabulary axis of each leaf that has one (see nn/transformer.py).
_VOCABULARY_AXES = {"token_embedding": 0, "head": 1, "head_bias": 0}


class _Growth(NamedTuple):
  """Describes how the vocabulary axis of a leaf grows.

  Attributes:
    axis: the vocabulary axis.
    rows: the new size of that axis, padding included.
    old, new: the number of ids in either vocabulary; further rows are padding.
    last: the number of ids that stay at the end.
  """

  axis: int
  rows: int
  old: int
  new: int
  last: int


@dataclasses.dataclass(frozen=True)
class _Source:
  """Names the source leaves that one leaf is made from.

  Attributes:
    names: their names in the source's checkpoint.
    layer: the layer to take out of a stacked leaf.
    stacked: whether to stack the leaves on a new first axis.
    growth: how the vocabulary grows; None if it does not.
  """

  names: tuple[str, ...]
  layer: int | None = None
  stacked: bool = False
  growth: _Growth | None = None


def warm_start(
  spec: WarmStart,
  params: Tree,
  *,
  vocabularies: tuple[int | None, int | None] = (None, None),
) -> Tree:
  """Loads parameters from another run's checkpoint.

  All renames are applied in order (`re.sub`) to each saved name, such as
  `decoder/layer_0/attention/query`; a parameter renamed to "" is left out.
  Stacked layers (`layers/...`, [L, ...]) and separate ones (`layer_0/...`) are
  converted into each other.

  Args:
    spec: the source (a run, or one of its checkpoint steps) and the renames.
    params: the tree to fill, initialised or abstract; its leaves give the
      shape, dtype and sharding of the result. Floats are cast.
    vocabularies: with `num_trailing_sentinels`, the number of ids in the
      source's vocabulary and in the model's; None counts all embedding rows.

  Returns:
    `params`, with each leaf that the source has replaced. With `strict` that
    is every leaf. Without, the other leaves are returned unchanged, so they
    must be initialised.

  Raises:
    ValueError: there is no undamaged checkpoint, or a bad rename; with
      `strict`, names are missing (-) or unexpected (+), or shapes differ.
  """
  wanted = trees.named_leaves(params)

  def read(path: epath.Path) -> dict[str, jax.Array]:
    manifest = saved_step.read_manifest(path)
    saved = {
      name.removeprefix("params/"): leaf
      for name, leaf in saved_step.params_of(manifest).items()
    }
    sources, unused = _sources(_renamed(saved, spec.renames), saved, wanted)
    if spec.num_trailing_sentinels is not None:
      sources = _grown(
        sources, saved, wanted, spec.num_trailing_sentinels, vocabularies
      )
    offered = {n: _made_from(source, saved) for n, source in sources.items()}
    offered |= {name: saved[old] for name, old in unused.items()}
    if spec.strict:
      saved_step.check_fit(path, offered, wanted, any_float=True)
    else:
      differences = saved_step.describe_differences(
        offered, wanted, any_float=True
      )
      if differences:
        logging.warning(
          "warm start from %s skips (- missing in it, + only in it): %s",
          path, differences,
        )  # fmt: skip
    fitting = {
      name: source
      for name, source in sources.items()
      if offered[name]["shape"] == list(wanted[name].shape)
    }
    return _read(path, manifest, fitting, wanted)

  path = epath.Path(spec.path).expanduser().absolute()
  if (path / "hosts").exists():  # One step's directory.
    folder, step = path.parent, int(path.name)
  else:
    folder, step = manager.folder_of(path), spec.step
  leaves, _ = manager.newest_sound(folder, read, step)
  return trees.with_leaves(params, {**wanted, **leaves})


def _renamed(
  saved: Mapping[str, Any], renames: Sequence[tuple[str, str]]
) -> dict[str, str]:
  """Returns {new name: name in the source}."""
  names: dict[str, str] = {}
  for old in saved:
    new = old
    for pattern, replacement in renames:
      try:
        new = re.sub(pattern, replacement, new)
      except (re.error, IndexError) as error:
        raise ValueError(
          f"WarmStart.renames: ({pattern!r}, {replacement!r}) is not a valid"
          f" (regular expression, replacement): {error}"
        ) from None
    if new in names:
      raise ValueError(
        f"WarmStart.renames map both {names[new]!r} and {old!r} to {new!r}"
      )
    if new:
      names[new] = old
  return names


def _sources(
  renamed: Mapping[str, str],
  saved: Mapping[str, Any],
  wanted: Mapping[str, Any],
) -> tuple[dict[str, _Source], dict[str, str]]:
  """Finds the source of each wanted leaf, and the names that are unused."""
  sources: dict[str, _Source] = {}
  layers_used: dict[str, int] = {}
  for name, leaf in wanted.items():
    if name in renamed:
      sources[name] = _Source((renamed[name],))
    elif one := re.fullmatch(r"((?:.*/)?)layer_(\d+)(/.*)", name):
      old, layer = renamed.get(f"{one[1]}layers{one[3]}"), int(one[2])
      if old and layer < _num_layers(saved[old]["shape"]):
        sources[name] = _Source((old,), layer=layer)
        layers_used[old] = layers_used.get(old, 0) + 1
    elif stack := re.fullmatch(r"((?:.*/)?)layers(/.*)", name):
      count = _num_layers(leaf.shape)
      parts = [f"{stack[1]}layer_{i}{stack[2]}" for i in range(count)]
      if parts and all(part in renamed for part in parts):
        olds = tuple(renamed[part] for part in parts)
        sources[name] = _Source(olds, stacked=True)
  used = {old for source in sources.values() for old in source.names}
  # A stack with more layers than the model needs counts as not fully used.
  used -= {
    old
    for old, count in layers_used.items()
    if count < _num_layers(saved[old]["shape"])
  }
  return sources, {new: old for new, old in renamed.items() if old not in used}


def _grown(
  sources: Mapping[str, _Source],
  saved: Mapping[str, Any],
  wanted: Mapping[str, Any],
  num_trailing_sentinels: int,
  vocabularies: tuple[int | None, int | None],
) -> dict[str, _Source]:
  """Adds `growth` to the sources of leaves whose vocabulary has grown."""
  grown = dict(sources)
  for name, axis in _VOCABULARY_AXES.items():
    if name not in sources:
      continue
    old_rows = saved[sources[name].names[0]]["shape"][axis]
    rows = wanted[name].shape[axis]
    old, new = vocabularies
    growth = _Growth(
      axis, rows, old or old_rows, new or rows, num_trailing_sentinels
    )
    if not (
      0 <= num_trailing_sentinels <= growth.old <= min(growth.new, old_rows)
      and growth.new <= rows
    ):
      raise ValueError(
        f"WarmStart.num_trailing_sentinels ({num_trailing_sentinels}) must be "
        f"at most the source's number of ids ({growth.old}), which must be at "
        f"most the model's ({growth.new}): a vocabulary can only grow"
      )
    if growth.new > growth.old or rows != old_rows:
      grown[name] = dataclasses.replace(sources[name], growth=growth)
  return grown


def _with_new_ids(leaf: jax.Array, growth: _Growth) -> jax.Array:
  """Inserts new ids before the last ones; they and padding get the mean.

  [a b c y z .], 5 ids, 2 last -> [a b c m m y z m], 7 ids

  With the mean embedding, new ids change the model's predictions least (Hewitt
  2021).
  """
  axis, rows, old, new, last = growth
  head, tail, _ = jnp.split(leaf, [old - last, old], axis=axis)
  ids = jnp.concatenate([head, tail], axis=axis)
  mean = jnp.mean(ids, axis=axis, keepdims=True)
  added = jnp.repeat(mean, new - old, axis=axis)
  padding = jnp.repeat(mean, rows - new, axis=axis)
  return jnp.concatenate([head, added, tail, padding], axis=axis)


def _num_layers(shape: Sequence[int]) -> int:
  return shape[0] if shape else 0


def _made_from(source: _Source, saved: Mapping[str, Any]) -> dict[str, Any]:
  """Returns the shape and dtype of the leaf made from a source."""
  shapes = [saved[name]["shape"] for name in source.names]
  shape = max(shapes)
  if source.layer is not None:
    shape = shape[1:]
  elif source.stacked:
    shape = [len(shapes), *shape]
  elif source.growth:
    axis, rows = source.growth.axis, source.growth.rows
    shape = [*shape[:axis], rows, *shape[axis + 1 :]]
  return {"shape": shape, "dtype": saved[source.names[0]]["dtype"]}


def _read(
  path: epath.Path,
  manifest: Mapping[str, Any],
  sources: Mapping[str, _Source],
  wanted: Mapping[str, Any],
) -> dict[str, jax.Array]:
  """Reads the sources, then slices or stacks layers onto their shardings."""
  on_disk = {}
  for name, source in sources.items():
    for old in source.names:
      shape = manifest["leaves"][f"params/{old}"]["shape"]
      on_disk[f"params/{old}"] = jax.ShapeDtypeStruct(
        shape,
        wanted[name].dtype,
        sharding=_source_sharding(source, wanted[name]),
      )
  read = saved_step.read_leaves(path, manifest, on_disk)
  made = {}
  for name, source in sources.items():
    parts = [read[f"params/{old}"] for old in source.names]
    if source.stacked:
      value = jnp.stack(parts)
    elif source.growth:
      value = _with_new_ids(parts[0], source.growth)
    else:
      value = parts[0] if source.layer is None else parts[0][source.layer]
    made[name] = jax.device_put(value, saved_step.sharding_of(wanted[name]))
  return made


def _source_sharding(source: _Source, leaf: Any) -> jax.sharding.Sharding:
  """Returns the sharding of `leaf` with a layer axis added or removed."""
  sharding = saved_step.sharding_of(leaf)
  if not isinstance(sharding, jax.sharding.NamedSharding):
    return sharding
  if source.layer is not None:
    spec = jax.sharding.PartitionSpec(None, *sharding.spec)
  elif source.stacked:
    spec = jax.sharding.PartitionSpec(*sharding.spec[1:])
  elif source.growth:  # The mesh may divide the new size but not the old one.
    spec = jax.sharding.PartitionSpec()
  else:
    return sharding
  return jax.sharding.NamedSharding(sharding.mesh, spec)
