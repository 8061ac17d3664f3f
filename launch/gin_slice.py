"""Takes the part of a run's gin that some parameters need.

    run.Run.model = @model.Model()       kept, if the model is needed
    model.Model.loss = @losses.CrossEntropy()         kept, as the model has it
    run.Run.train = @data.Data()         kept, if the lengths are
    data.Data.lengths = {"inputs": %INPUTS}           kept
    INPUTS = 512                                      kept
    data.Data.task = @text.text_task()   left out: it would import TensorFlow

Statements that are left out become blank lines, so that messages still name the
right ones.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import gin

# Before the name of a macro, among the names that a statement refers to.
MACRO = "%"


@dataclasses.dataclass(frozen=True)
class Needed:
  """Names the parameters that are needed of a configuration.

  Attributes:
    roots: the classes to be built, as "module.Class".
    parameters: {class: names of its parameters}. Of a class that is not named
      here, all parameters are needed, if anything refers to it.
    added: {parameter, as "module.Class.parameter": its value}, in place of
      what is left out.
  """

  roots: Sequence[str]
  parameters: Mapping[str, Collection[str]]
  added: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def take(
  text: str, statements: Sequence[tuple[Any, list[str]]], needed: Needed
) -> str:
  """Returns a configuration without the statements that are not needed.

  Args:
    text: the configuration, as gin writes it.
    statements: those of the text, each with the names that it refers to:
      configurables, and macros after a "%".
    needed: what to keep.
  """
  if any(isinstance(one, gin.config_parser.BlockDeclaration)
         for one, _ in statements):  # fmt: skip
    return text  # Gin writes none; a user who edits the file may.
  kept = _kept_bindings(statements, needed)
  used = {
    name.partition(".")[0]
    for i in kept
    for name in (*statements[i][1], statements[i][0].selector)
  }
  imports = {
    i
    for i, (one, _) in enumerate(statements)
    if isinstance(one, gin.config_parser.ImportStatement)
    and (one.module.startswith("__gin__") or one.bound_name() in used)
  }
  lines = text.splitlines()
  starts = [one.location.line_num - 1 for one, _ in statements]
  for i, (start, end) in enumerate(
    zip(starts, [*starts[1:], len(lines)], strict=True)
  ):
    if i not in kept | imports:
      lines[start:end] = [""] * (end - start)
  lines += [
    f"{name} = {value!r}"
    for name, value in needed.added.items()
    if name.partition(".")[0] in used
  ]
  return "\n".join(lines) + "\n"


def _kept_bindings(statements, needed) -> set[int]:
  """Returns the indices of the bindings that the parameters depend on."""
  bindings = {}
  for i, (one, names) in enumerate(statements):
    if isinstance(one, gin.config_parser.BindingStatement):
      name = one.selector if one.arg_name else f"{MACRO}{one.selector}"
      bindings.setdefault(name, []).append((i, one.arg_name, names))
  kept, seen, todo = set(), set(), list(needed.roots)
  while todo:
    name = todo.pop()
    if name in seen:
      continue
    seen.add(name)
    wanted = needed.parameters.get(name)
    for i, parameter, names in bindings.get(name, ()):
      if wanted is None or parameter in wanted:
        kept.add(i)
        todo += names
  return kept
