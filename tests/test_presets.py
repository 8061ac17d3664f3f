"""Presets have the parameters that were published for them.

Each says in its first comment what was published, and where: docs/presets.md
is the table of all, renewed by UPDATE_GOLDEN=1.

    # GPT-2 small: 124,439,808 parameters (config of openai-community/gpt2).

A number is reached if ours is less than one unit of its last digit away. Where
no sizes that were published reach it, the comment says what ours is, and why.
"""

import dataclasses
import os
import pathlib
import re

import jax
import pytest

from launch import config
from t5x_lite.accounting import costs, model_structure
from t5x_lite.model import Model

FOLDER = config.shipped_folder() / "gin" / "models"
TABLE = pathlib.Path(__file__).parents[1] / "docs" / "presets.md"
NOT_SIZES = ("architecture", "tiny", "bench")

COMMENT = re.compile(
  r".+?: (?P<published>[\d.,]+[MBT]?) parameters"
  r"(?P<part> without the embedding)? \((?P<source>[^)]*)\)(?P<more>.*)"
)
UNITS = {"M": 1e6, "B": 1e9, "T": 1e12}


@dataclasses.dataclass(frozen=True)
class Preset:
  """What a file says of itself.

  Attributes:
    name: FAMILY/SIZE.
    published: number of parameters, with the digits that were published.
    part: what the number leaves out.
    source: where it was published.
    stated: what ours is, where it is another number.
    why: and why.
  """

  name: str
  published: str
  part: str
  source: str
  stated: str | None
  why: str


def read(path: pathlib.Path) -> Preset:
  lines = []
  for line in path.read_text().splitlines():
    if not line.startswith("#"):
      break
    lines.append(line.removeprefix("#").strip())
  found = COMMENT.fullmatch(" ".join(lines))
  assert found, f"{path} does not say how many parameters were published"
  other = re.search(r"Ours has ([\d.]+[MBT]): (.*)\.", found["more"])
  return Preset(
    name=name(path),
    published=found["published"],
    part=found["part"] or "",
    source=found["source"],
    stated=other and other[1],
    why=other[2] if other else "",
  )


def name(path: pathlib.Path) -> str:
  return str(path.relative_to(FOLDER).with_suffix(""))


def number(text: str) -> tuple[float, float]:
  """Reads "540.35B": the number, and one unit of its last digit."""
  digits = text.rstrip("MBT").replace(",", "")
  unit = UNITS.get(text[-1], 1)
  decimals = len(digits.partition(".")[2])
  return float(digits) * unit, unit / 10**decimals


def reached(text: str, count: int) -> bool:
  value, unit = number(text)
  return abs(count - value) < unit


def build(name: str) -> Model:
  config.load([f"models/{name}.gin"])
  model = config.build(Model)
  if model.transformer.vocab_size is None:
    model = model.fit_vocabulary(1000)
  return model


PRESETS = [
  read(path)
  for path in sorted(FOLDER.glob("*/*.gin"))
  if path.stem not in NOT_SIZES
]
TINY = [name(path) for path in sorted(FOLDER.glob("*/tiny.gin"))]


@pytest.fixture(scope="module")
def counts() -> dict[str, int]:
  """Counts all presets once, as their comments do."""
  found = {}
  for preset in PRESETS:
    counted = costs.parameters(build(preset.name))
    found[preset.name] = counted["total"]
    if preset.part:
      parts = counted["by_component"]
      found[preset.name] -= parts["token_embedding"] + parts.get("head", 0)
  return found


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.name)
def test_count_is_the_published_one(preset, counts):
  count = counts[preset.name]
  assert reached(preset.stated or preset.published, count), f"{count:,}"
  if preset.stated:
    assert not reached(preset.published, count), "say no more that it differs"


def test_table_lists_all_presets(counts):
  rows = [
    f"| {preset.name} | {preset.published}{preset.part} "
    f"| {counts[preset.name]:,} | {preset.source} | {preset.why} |"
    for preset in PRESETS
  ]
  head, rule, _ = TABLE.read_text().partition(
    "| --- | ---: | ---: | --- | --- |\n"
  )
  text = head + rule + "\n".join(rows) + "\n"
  if os.environ.get("UPDATE_GOLDEN") == "1":
    TABLE.write_text(text)
  assert TABLE.read_text() == text, "UPDATE_GOLDEN=1 renews docs/presets.md"


@pytest.mark.parametrize("folder", sorted(FOLDER.glob("*/")), ids=str)
def test_every_family_has_a_tiny_preset(folder):
  assert (folder / "tiny.gin").is_file()


@pytest.mark.parametrize("name", TINY)
def test_tiny_presets_take_packed_batches(name):
  """Traces the loss of one period of layers."""
  model = build(name)
  assert hash(model) == hash(build(name))  # As jit takes it.
  model = model_structure.one_period(model)
  rows = {"inputs": 24, "targets": 16}
  batch = model.abstract_batch(2, model.row_format.row_lengths(rows))

  loss = jax.eval_shape(model.objective, model.abstract(), batch)
  assert loss.shape == ()


@pytest.mark.parametrize("name", TINY)
def test_bindings_of_parts_reach_every_preset(name):
  bindings = [
    "embedding.Embedding.stddev=0.5", "heads.LMHead.soft_cap=3.0",
    "attention.Projections.out_bias=True", "attention.CoreAttention.sink=True",
    "encoder/attention.CoreAttention.sink=False",
  ]  # fmt: skip
  config.load([f"models/{name}.gin"], bindings)
  model = config.build(Model)
  assert model.transformer.embedding.stddev == 0.5
  assert model.transformer.lm_head.soft_cap == 3.0
  rows = {"encoder": 1, "decoder": 1}
  for stack, attention, _ in model_structure.attentions(model, rows):
    assert attention.projections.out_bias is True
    assert attention.core.sink is (stack is not model.transformer.encoder)


@pytest.mark.parametrize(
  "name", ["byt5/tiny", "gpt3/tiny", "switch/tiny", "yoco/tiny"]
)
@pytest.mark.parametrize("scan", [False, True])
def test_count_is_that_of_the_parameters(name, scan):
  config.load([f"models/{name}.gin"], [f"SCAN={scan}"])
  model = config.build(Model).fit_vocabulary(1000)
  leaves = jax.tree.leaves(model.abstract())
  total = sum(leaf.size for leaf in leaves)
  assert costs.parameters(model)["total"] == total


def test_flops_of_a_decoder_are_six_per_parameter_and_token():
  model = build("palm/8b")
  account = costs.describe(model, batch_size=1, lengths={"targets": 1})
  rule = 6 * account["parameters"]["total"]
  # Of one token, attention scores cost next to nothing.
  assert account["flops_per_token"] == pytest.approx(rule, rel=0.01)
