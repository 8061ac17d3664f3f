"""Starts other processes as the tests themselves were started."""

import os
import re


def environment(**changes: str) -> dict[str, str]:
  """Returns the tests' environment, without their emulated devices.

  All else that XLA was told holds in the other process too: what the two
  compute is compared.
  """
  flags = re.sub(
    r"--xla_force_host_platform_device_count=\d+", "",
    os.environ.get("XLA_FLAGS", ""),
  )  # fmt: skip
  return os.environ | {"XLA_FLAGS": flags.strip()} | changes
