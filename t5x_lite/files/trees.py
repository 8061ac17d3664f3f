"""Names the leaves of a tree, and lists how two sets of leaves differ."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax

Tree = Any


def named_leaves(tree: Tree) -> dict[str, Any]:
  """Returns {"decoder/layer_0/.../kernel": leaf}, in tree order."""
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def with_leaves(tree: Tree, leaves: Mapping[str, Any]) -> Tree:
  """Returns a copy of the tree with its leaves taken from `leaves` by name."""
  structure = jax.tree.structure(tree)
  return jax.tree.unflatten(structure, [leaves[n] for n in named_leaves(tree)])


def tree_of_names(tree: Tree) -> Tree:
  """Returns a copy of the tree with each leaf replaced by its name."""
  return jax.tree.unflatten(jax.tree.structure(tree), list(named_leaves(tree)))


def differences(
  wanted: Mapping[str, Sequence[int]], found: Mapping[str, Sequence[int]]
) -> list[str]:
  """Lists `-missing`, `+unexpected` and `name is [8], wanted [9]`.

  Args:
    wanted, found: {name: shape}.
  """
  lines = [f"-{name}" for name in wanted if name not in found]
  lines += [f"+{name}" for name in found if name not in wanted]
  lines += [
    f"{name} is {list(found[name])}, wanted {list(shape)}"
    for name, shape in wanted.items()
    if name in found and tuple(found[name]) != tuple(shape)
  ]
  return lines


def listed(lines: Sequence[str], shown: int = 8, separator: str = ", ") -> str:
  """Joins the first lines, and counts the others."""
  more = len(lines) - shown
  tail = [f"and {more} more"] if more > 0 else []
  return separator.join([*lines[:shown], *tail])
