"""Defines a study: its question, grid of arms, budget and shared settings.

A setting is a gin file or a binding, as on the command line:

  grid = {
    "architecture": {
      "encoder_decoder": ["models/t5_1_1/tiny.gin"],
      "causal": ["models/palm/tiny.gin", "NUM_LAYERS=3"],
    },
    "objective": {
      "span_corruption": ["objectives/span_corruption.gin"],
      "causal_lm": ["objectives/causal_lm.gin"],
    },
  }

makes four cells, "encoder_decoder-span_corruption" and so on. This module does
not read gin: settings are strings that `t5x_lite ablate` passes to the runs.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

from t5x_lite import checks

BUDGETS = ("flops", "source_tokens", "loss_tokens", "steps", "seconds")
# The stage name of a cell's first run.
FIRST = ""
_SEPARATOR = "-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """Defines the budget that every arm gets.

  Attributes:
    amount: the size of the budget, in `unit`.
    unit: "flops" of training (accounting.costs), "source_tokens" of text read,
      "loss_tokens" (targets of the loss), "steps", or "seconds" of training on
      this device, estimated by a short calibration.
    embeddings: whether FLOPs include the head, which is as large as the
      embedding.
    parameters_within: refuse arms whose parameter count differs from the
      first's by more than this fraction; None: no limit.
  """

  amount: checks.Positive
  unit: str = "flops"
  embeddings: bool = True
  parameters_within: checks.NotNegative | None = None

  def __post_init__(self):
    checks.fields(self)
    if self.unit not in BUDGETS:
      raise ValueError(
        f"Budget.unit ({self.unit!r}) must be one of {', '.join(BUDGETS)}"
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """Describes one point of the grid; with a seed it is an arm.

  Attributes:
    name: the chosen options, joined.
    choices: {axis: option}.
    settings: gin files and bindings; later ones override earlier ones.
    skipped: the reason to skip this cell, or None.
  """

  name: str
  choices: Mapping[str, str]
  settings: Sequence[str]
  skipped: str | None = None

  @property
  def files(self) -> list[str]:
    """Returns the settings that are gin files."""
    return [s for s in self.settings if not _is_binding(s)]

  @property
  def bindings(self) -> list[str]:
    """Returns the settings that are bindings."""
    return [s for s in self.settings if _is_binding(s)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
  """Defines a run that starts from another's final parameters: fine-tuning.

  Attributes:
    budget: the budget of every arm in this stage.
    settings: changes; they override the settings of the run before.
    after: the stage to start from; None means the cell's first run.
    only: {axis: option} of the cells with this stage; empty for all.
  """

  budget: Budget
  settings: Sequence[str] = ()
  after: str | None = None
  only: Mapping[str, str] = dataclasses.field(default_factory=dict)

  def __post_init__(self):
    checks.fields(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """Defines a grid of arms under one budget.

  Attributes:
    question: the research question, in plain words.
    grid: {axis: {option: settings}}.
    budget: the budget of every arm.
    common: settings of all arms; the options' settings override them.
    seeds: seeds of initialisation, order and noise; one arm for each.
    skip: cells to skip, as ({axis: option}, reason). Combinations of
      architecture and objective that cannot work are skipped automatically.
    baseline: the cell that the others are compared with; None compares all
      pairs.
    size_axis: the axis whose options are model sizes; a scaling law is fitted
      along it, if it has 3 or more.
    stages: {name: stage}: further runs after the first one, each measured too.
    contrasts: {title: two of (measure, cell)}: further comparisons to test, for
      example of two cells after different stages.
    paper: a paper's results, {measure: {cell: text or number}}, shown next to
      ours.
    paper_title: the paper, and what it measures.
  """

  question: str
  grid: Mapping[str, Mapping[str, Sequence[str]]]
  budget: Budget
  common: Sequence[str] = ()
  seeds: Sequence[int] = (0, 1, 2)
  skip: Sequence[tuple[Mapping[str, str], str]] = ()
  baseline: str | None = None
  size_axis: str | None = None
  stages: Mapping[str, Stage] = dataclasses.field(default_factory=dict)
  contrasts: Mapping[str, Sequence[tuple[str, str]]] = dataclasses.field(
    default_factory=dict
  )
  paper: Mapping[str, Mapping[str, str]] = dataclasses.field(
    default_factory=dict
  )
  paper_title: str = "paper"

  def __post_init__(self):
    checks.fields(self)
    if not self.grid or not all(self.grid.values()):
      raise ValueError(f"Study.grid ({dict(self.grid)}) has an empty axis")
    for axis, options in self.grid.items():
      for option in options:
        _check_name(option, f"Study.grid option {option!r} of {axis!r}")
    if not self.seeds or len(set(self.seeds)) < len(self.seeds):
      raise ValueError(
        f"Study.seeds ({self.seeds}) must be one or more different numbers"
      )
    for where, _ in self.skip:
      self._check_choices(where, "Study.skip")
    self._check_stages()
    names = [cell.name for cell in self.cells()]
    contrasted = self._check_contrasts()
    for name in filter(
      None,
      [self.baseline, *contrasted, *itertools.chain(*self.paper.values())],
    ):
      if name not in names:
        raise ValueError(
          f"Study has no cell {name!r}: its cells are {', '.join(names)}"
        )
    if self.size_axis is not None and self.size_axis not in self.grid:
      raise ValueError(
        f"Study.size_axis ({self.size_axis!r}) must be one of "
        f"{', '.join(self.grid)}"
      )

  def _check_choices(self, where, what):
    for axis, option in where.items():
      if option not in self.grid.get(axis, ()):
        raise ValueError(
          f"{what} names {axis}={option}, which is not in Study.grid"
        )

  def _check_stages(self):
    earlier = []
    for name, stage in self.stages.items():
      _check_name(name, f"Study.stages has {name!r}, which")
      self._check_choices(stage.only, f"stage {name}")
      if stage.after is not None and stage.after not in earlier:
        raise ValueError(
          f"stage {name} has after={stage.after!r}, which is not an earlier "
          f"stage: those are {', '.join(earlier) or 'none'}"
        )
      earlier.append(name)

  def _check_contrasts(self) -> list[str]:
    """Checks the contrasts, and returns the cells that they name."""
    cells = []
    for title, sides in self.contrasts.items():
      if len(sides) != 2:
        raise ValueError(
          f"Study.contrasts {title!r} has {len(sides)} sides: give two of "
          "(measure, cell)"
        )
      if tuple(sides[0]) == tuple(sides[1]):
        raise ValueError(
          f"Study.contrasts {title!r} compares {tuple(sides[0])} with itself: "
          "give two that differ"
        )
      for measure, cell in sides:
        stage = measure.partition(" after ")[2]
        if stage and stage not in self.stages:
          raise ValueError(
            f"Study.contrasts {title!r} names stage {stage!r}, which is not in "
            f"Study.stages ({', '.join(self.stages) or 'none'})"
          )
        cells.append(cell)
    return cells

  def cells(self) -> Iterator[Cell]:
    """Yields the cells of the grid, the last axis fastest."""
    for options in itertools.product(*self.grid.values()):
      choices = dict(zip(self.grid, options, strict=True))
      settings = [*self.common]
      for axis, option in choices.items():
        settings += self.grid[axis][option]
      yield Cell(
        name=_SEPARATOR.join(options),
        choices=choices,
        settings=tuple(settings),
        skipped=self._reason(choices),
      )

  def runs(self, cell: Cell) -> dict[str, Cell]:
    """Returns an arm's runs: {stage: the cell with its settings up to there}.

    The first is FIRST, the cell itself. Stages after a stage that the cell does
    not have are left out too.
    """
    runs = {FIRST: cell}
    for name, stage in self.stages.items():
      before = runs.get(stage.after or FIRST)
      if before and stage.only.items() <= cell.choices.items():
        runs[name] = dataclasses.replace(
          before, settings=(*before.settings, *stage.settings)
        )
    return runs

  def _reason(self, choices) -> str | None:
    for where, reason in self.skip:
      if where.items() <= choices.items():
        return reason
    return None


def arm_name(cell: str, seed: int) -> str:
  """Returns the name of an arm's directory."""
  return f"{cell}{_SEPARATOR}seed{seed}"


def _check_name(name, what):
  if not str(name).replace("_", "").replace(".", "").isalnum():
    raise ValueError(
      f"{what} names a directory: use only letters, digits, '_' and '.'"
    )


def _is_binding(setting: str) -> bool:
  return "=" in setting
