"""Gives macros that say "auto" the values that suit the platform.

    DTYPE  float32 on a CPU, which gains nothing from less; bfloat16 elsewhere
    SCAN   False on a CPU, where unrolled layers run faster; True elsewhere

They decide how a run rounds and what its parameters are called. So a run keeps
what it was started with, wherever it is resumed.
"""

import re

import gin
from etils import epath

AUTO = "auto"
_VALUES = {"DTYPE": ("float32", "bfloat16"), "SCAN": (False, True)}


def settle(*, accelerator: bool, started_with: epath.Path | None):
  """Settles the macros of the configuration that is loaded.

  Args:
    accelerator: whether the model is for an accelerator.
    started_with: the config.gin of the run that goes on, if there is one.
  """
  text = ""
  if started_with is not None:  # Only two lines of it are looked for.
    text = started_with.read_bytes().decode(errors="replace")
  for name, values in _VALUES.items():
    bindings = gin.config._CONFIG.get((name, "gin.macro"), {})
    if bindings.get("value") != AUTO:
      continue
    kept = re.search(rf"^{name} = (\S+)$", text, re.M)
    value = kept[1] if kept else repr(values[accelerator])
    gin.parse_config(f"{name} = {value}")
