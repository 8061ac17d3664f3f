"""Rotary encodings as config.json states them, in its two ways.

"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}
                                                       until transformers 4
"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}
                                                       from 5 on
"""

import dataclasses
import math

from t5x_lite.interop.config import Config
from t5x_lite.nn.positions import Rope
from t5x_lite.nn.rope_scaling import Linear, Llama3, RopeScaling, Yarn


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rotary:
  """How a family states its rotary encoding.

  Attributes:
    base: where config.json states none.
    fraction: where config.json states none; None means a family that turns
      whole heads.
    interleaved: how the family pairs features.
  """

  base: float = 10_000.0
  fraction: float | None = None
  interleaved: bool = False

  def read(self, config: Config) -> Rope:
    """Reads the encoding."""
    outside = self._stated(config, self.base, self.fraction)
    sections = map(config.section, ("rope_scaling", "rope_parameters"))
    found = [
      Rope(*self._stated(section, *outside), self.interleaved, scaling)
      for section in sections
      if section is not None
      for scaling in [_scaling(section, config)]
    ]
    if any(other != found[0] for other in found[1:]):
      raise ValueError(
        f"{config.origin}: rope_scaling and rope_parameters say different"
        " things"
      )
    return found[0] if found else Rope(*outside, self.interleaved)

  def _stated(self, config: Config, base: float, fraction: float | None):
    """Reads base and fraction, with these where they are not stated."""
    base = config.number("rope_theta", base)
    if self.fraction is None:
      return base, 1.0
    return base, config.number("partial_rotary_factor", fraction)

  def write(self, rope: Rope) -> dict:
    """Returns the options that state an encoding, in both ways."""
    stated = _stated(rope.scaling)
    part = (
      {} if self.fraction is None else {"partial_rotary_factor": rope.fraction}
    )
    options = {"rope_theta": rope.base, **part}
    return {
      **options,
      **({"rope_scaling": stated} if rope.scaling else {}),
      "rope_parameters": {**options, **stated},
    }


def _scaling(section: Config, config: Config) -> RopeScaling | None:
  """Reads how the frequencies change; "dynamic", by length, is not there."""
  kinds = {
    "default": lambda section, config: None,
    "linear": lambda section, config: Linear(section.number("factor")),
    "llama3": _llama3,
    "yarn": _yarn,
  }
  kind = section.choice("type", {name: name for name in kinds}, "default")
  return section.choice("rope_type", kinds, kind)(section, config)


def _original_length(section, config):
  name = "original_max_position_embeddings"
  length = section.integer(name, None)
  return length or config.integer("max_position_embeddings")


def _llama3(section, config):
  return Llama3(
    factor=section.number("factor"),
    original_length=_original_length(section, config),
    low_freq_factor=section.number("low_freq_factor"),
    high_freq_factor=section.number("high_freq_factor"),
  )


def _yarn(section, config):
  section.expect("truncate", True)
  section.without_effect("finetuned")
  factor = section.number("factor")
  amplitude = section.number("attention_factor", None)
  # DeepSeek-V2 states two amplitudes, of which the ratio is left for RoPE.
  over = section.number("mscale", None)
  under = section.number("mscale_all_dim", None)
  if amplitude is None and over and under:
    grown = 0.1 * math.log(max(factor, 1.0))
    amplitude = (grown * over + 1) / (grown * under + 1)
  return Yarn(
    factor=factor,
    original_length=_original_length(section, config),
    beta_fast=section.number("beta_fast", 32.0),
    beta_slow=section.number("beta_slow", 1.0),
    amplitude=amplitude,
  )


def _stated(scaling: RopeScaling | None) -> dict:
  match scaling:
    case None:
      return {"rope_type": "default"}
    case Linear():
      return {"rope_type": "linear", "factor": scaling.factor}
    case Llama3():
      return {
        "rope_type": "llama3",
        "factor": scaling.factor,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
        "original_max_position_embeddings": scaling.original_length,
      }
    case Yarn():
      return {
        "rope_type": "yarn",
        "factor": scaling.factor,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "attention_factor": scaling.amplitude,
        "original_max_position_embeddings": scaling.original_length,
      }
  name = type(scaling).__name__
  raise ValueError(f"config.json has no name for the rope scaling {name}")
