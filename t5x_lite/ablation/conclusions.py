"""Writes a study's conclusions as sentences, from its statistical tests."""

from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]


def paragraphs(found: Found) -> list[dict[str, Any]]:
  """Returns the conclusions about each measure.

  They compare the options of each axis, and the best cell or the baseline with
  the other cells, and state the minimum detectable effect. The report's tables
  have all pairs.

  Returns:
    [{"about": a measure, "sentences": [...]}], with 95% intervals in brackets;
    then the measures of each source, and last the study's contrasts.
  """
  made, parts, alone = [], [], []
  for kind, meaning in found["measures"].items():
    means = {
      name: cell["measures"][kind]["mean"]
      for name, cell in found["cells"].items()
      if kind in cell["measures"]
    }
    if len(means) == 1:
      ((name, mean),) = means.items()
      alone.append(f"{name}, {kind}: {mean:.3f} {meaning['unit']}.")
    elif "whole" in meaning:
      words = " ".join(_of_best_and_options(kind, means, found))
      parts.append(f"{kind[0].upper()}{kind[1:]}: {words}")
    else:
      made.append({"about": kind, "sentences": _of_measure(kind, means, found)})
  if parts:
    made.append({"about": "each source apart", "sentences": parts})
  if alone:
    made.append({"about": "asked of one cell alone", "sentences": alone})
  if found["contrasts"]:
    sentences = [_of_contrast(one) for one in found["contrasts"]]
    made.append({"about": "chosen beforehand", "sentences": sentences})
  return made


def _of_contrast(one) -> str:
  low, high = one["interval"]
  return (
    f"{one['title']}: {one['a']} less {one['b']} is {one['difference']:+.3f} "
    f"({low:.3f} to {high:.3f}), "
    f"{'significant' if one['significant'] else 'not significant'} at 5%."
  )


def _of_measure(kind, means, found) -> list[str]:
  unit, better = _meaning(kind, found)
  lines = _of_best_and_options(kind, means, found)
  if len(set(means.values())) == 1:
    return lines
  pairs = found["comparisons"][kind]
  first = found["baseline"]
  if first not in means:
    first = _best(means, better)
  lines += _of_cell(first, [one for one in pairs if _has(one, first)], better)
  if pairs:
    lines.append(_power(kind, unit, pairs, found))
  return lines


def _of_best_and_options(kind, means, found) -> list[str]:
  unit, better = _meaning(kind, found)
  first = _best(means, better)
  if len(set(means.values())) == 1:
    return [f"All {len(means)} cells have {means[first]:.3f} {unit}."]
  most = "lowest" if better == "lower" else "highest"
  lines = [
    f"{first} has the {most} mean, {means[first]:.3f} {unit}, of {len(means)} "
    "cells."
  ]
  for axis, of_axis in found["options"][kind].items():
    title = f"By {axis.replace('_', ' ')}, all else equal:"
    words = _of_options(of_axis, better)
    lines += [f"{title} {words}."] if words else []
  return lines


def _meaning(kind, found) -> tuple[str, str]:
  meaning = found["measures"][kind]
  return meaning["unit"], meaning["better"]


def _best(means, better) -> str:
  return (min if better == "lower" else max)(means, key=means.get)


def _of_cell(name, pairs, better) -> list[str]:
  """Compares a cell with the cells below it, above it, and not different."""
  lines = [f"{words}." for words in _leads(name, pairs, better)]
  for one in pairs:
    lines += [f"{words}." for words in _leads(_other(one, name), [one], better)]
  rest = [_other(one, name) for one in pairs if not one["significant"]]
  if rest:
    everyone = len(rest) == len(pairs) > 2
    others = "any other cell" if everyone else _listed(rest, "or")
    lines.append(f"No significant difference between {name} and {others}.")
  return lines


def _of_options(pairs, better) -> str:
  names = dict.fromkeys(name for one in pairs for name in (one["a"], one["b"]))
  words = [
    lead
    for name in names
    for lead in _leads(name, [o for o in pairs if _has(o, name)], better)
  ]
  rest = [f"{o['a']} and {o['b']}" for o in pairs if not o["significant"]]
  if rest:
    which = _listed(rest, "or") if words else "any two of them"
    words.append(f"no significant difference between {which}")
  return "; ".join(words)


def _leads(name, pairs, better) -> list[str]:
  """Lists what a cell is ahead of, and by how much, the closest first."""
  parts = []
  for one in sorted(pairs, key=lambda one: abs(one["difference"])):
    sign = 1 if one["a"] == name else -1
    lead, *ends = (
      (-sign if better == "lower" else sign) * value
      for value in (one["difference"], *one["interval"])
    )
    if one["significant"] and lead > 0:
      low, high = sorted(ends)
      parts.append(
        f"{_other(one, name)} by {lead:.3f} ({low:.3f} to {high:.3f})"
      )
  return [f"{name} is ahead of {_listed(parts)}"] if parts else []


def _has(one, name) -> bool:
  return name in (one["a"], one["b"])


def _other(one, name) -> str:
  return one["b"] if one["a"] == name else one["a"]


def _power(kind, unit, pairs, found) -> str:
  effect = found["minimum_detectable_effect"][kind]
  if effect is None:
    return "With one seed nothing can be tested."
  count = sum(one["significant"] for one in pairs)
  return (
    f"{count} of {len(pairs)} comparisons of cells are significant at 5% "
    f"after Holm's correction. With {len(found['seeds'])} seeds the minimum "
    f"detectable effect of a single test is {effect:.3f} {unit}, at a power of "
    "80%."
  )


def _listed(names: Sequence[str], last: str = "and") -> str:
  *most, end = names
  return f"{', '.join(most)} {last} {end}" if most else end
