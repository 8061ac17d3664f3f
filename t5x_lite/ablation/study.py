"""Study: a question, the grid of arms that answers it, and what they share.

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

makes four cells, "encoder_decoder-span_corruption" and so on. Nothing here
reads gin: settings are strings that `t5x_lite ablate` hands on.
"""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

BUDGETS = ("flops", "source_tokens", "loss_tokens", "steps", "seconds")
_SEPARATOR = "-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Budget:
  """Says what every arm gets the same amount of.

  Attributes:
    amount: how much.
    equal: "flops" of training (accounting.flops), "source_tokens" of text
      read, "loss_tokens" (those that bear loss), "steps", or "seconds" of
      training on this device, by a short calibration.
    embeddings: whether FLOPs count the head, which is as large as the
      embedding.
    parameters_within: refuses arms whose parameters differ by more than this
      share of the first's; None lets them differ.
  """

  amount: float
  equal: str = "flops"
  embeddings: bool = True
  parameters_within: float | None = None

  def __post_init__(self):
    if self.equal not in BUDGETS:
      raise ValueError(
        f"Budget.equal ({self.equal!r}) must be one of {', '.join(BUDGETS)}"
      )
    if self.amount <= 0:
      raise ValueError(f"Budget.amount ({self.amount}) must be positive")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cell:
  """One point of the grid; with a seed it is an arm.

  Attributes:
    name: the choices, joined.
    choices: axis -> option.
    settings: gin files and bindings, later ones win.
    skipped: why it is left out, or None.
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
class Study:
  """A grid of arms under one budget.

  Attributes:
    question: what it is to answer, in plain words.
    grid: axis -> option -> settings.
    budget: what is made equal.
    common: settings of all arms; an option's win over them.
    seeds: of initialisation, order and noise; one arm for each.
    skip: (axis -> option, reason) of cells to leave out. Pairs of architecture
      and objective that cannot be are left out by themselves.
    baseline: the cell that the others are compared with; None compares all
      pairs.
    size_axis: the axis whose options are sizes: a scaling law is fitted along
      it, where it has 3 or more.
    paper: what a paper reports, cell -> value, to stand beside ours.
    paper_title: of the column, such as "EleutherAI harness, percent".
  """

  question: str
  grid: Mapping[str, Mapping[str, Sequence[str]]]
  budget: Budget
  common: Sequence[str] = ()
  seeds: Sequence[int] = (0, 1, 2)
  skip: Sequence[tuple[Mapping[str, str], str]] = ()
  baseline: str | None = None
  size_axis: str | None = None
  paper: Mapping[str, float] = dataclasses.field(default_factory=dict)
  paper_title: str = "paper"

  def __post_init__(self):
    if not self.grid or not all(self.grid.values()):
      raise ValueError(f"Study.grid ({dict(self.grid)}) has an empty axis")
    for axis, options in self.grid.items():
      for option in options:
        if not str(option).replace("_", "").replace(".", "").isalnum():
          raise ValueError(
            f"Study.grid option {option!r} of {axis!r} names a directory: use "
            "letters, digits, '_' and '.' alone"
          )
    if not self.seeds or len(set(self.seeds)) < len(self.seeds):
      raise ValueError(f"Study.seeds ({self.seeds}) must differ, one at least")
    for where, _ in self.skip:
      self._check_choices(where)
    names = [cell.name for cell in self.cells()]
    for name in filter(None, [self.baseline, *self.paper]):
      if name not in names:
        raise ValueError(
          f"Study has no cell {name!r}: its cells are {', '.join(names)}"
        )
    if self.size_axis is not None and self.size_axis not in self.grid:
      raise ValueError(
        f"Study.size_axis ({self.size_axis!r}) must be one of "
        f"{', '.join(self.grid)}"
      )

  def _check_choices(self, where):
    for axis, option in where.items():
      if option not in self.grid.get(axis, ()):
        raise ValueError(
          f"Study.skip names {axis}={option}, which the grid has not"
        )

  def cells(self) -> Iterator[Cell]:
    """Yields the points of the grid, the last axis fastest."""
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

  def _reason(self, choices) -> str | None:
    for where, reason in self.skip:
      if where.items() <= choices.items():
        return reason
    return None


def arm_name(cell: str, seed: int) -> str:
  """Returns the name of an arm's directory."""
  return f"{cell}{_SEPARATOR}seed{seed}"


def _is_binding(setting: str) -> bool:
  return "=" in setting
