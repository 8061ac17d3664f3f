"""Rotary encodings as config.json states them, in its two ways.

"rope_theta": 1e4, "rope_scaling": null          until transformers 4
"rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}     from 5 on
"""

from t5x_lite.interop.config import Config
from t5x_lite.nn.positions import Rope


def read(config: Config, *, base: float = 10_000.0) -> Rope:
  """Reads the rotary encoding of a family whose base is usually this one."""
  # Longer texts are computed as well as these.
  config.without_effect("max_position_embeddings")
  base = config.number("rope_theta", base)
  for name in ("rope_parameters", "rope_scaling"):
    section = config.section(name)
    if section is not None:
      base = section.number("rope_theta", base)
      section.expect("rope_type", "default")
      section.expect("type", "default")
  return Rope(base=base)


def write(rope: Rope) -> dict:
  """Returns the options that state a rotary encoding, in both ways."""
  parameters = {"rope_theta": rope.base, "rope_type": "default"}
  return {"rope_theta": rope.base, "rope_parameters": parameters}
