"""Checks that configured values fit the types of their parameters.

An object checks its fields when it is built (t5x_lite/checks.py). Here they are
checked earlier, all of them, by the names that flags have.
"""

import gin

from launch.gin_errors import ConfigError
from t5x_lite import checks


def check():
  """Checks every binding of the configuration that is loaded.

  Raises:
    ConfigError: naming the parameter, its value and what it must be.
  """
  for (scope, selector), bindings in gin.config._CONFIG.items():
    function = gin.config._REGISTRY[selector].wrapped
    kinds = checks.hints(function)
    for name, value in bindings.items():
      wrong = name in kinds and checks.refusal(_resolved(value), kinds[name])
      if wrong:
        short = ".".join(selector.split(".")[-2:])
        key = f"{scope}/{short}.{name}" if scope else f"{short}.{name}"
        raise ConfigError(
          f"{key}{wrong.place} is {wrong.value}, but {wrong.text}: "
          f"--gin.{key}=VALUE"
        )


def _resolved(value):
  """Returns a value with its macros replaced; the rest is not known yet."""
  if isinstance(value, list | tuple):
    return type(value)(map(_resolved, value))
  if isinstance(value, dict):
    return {_resolved(k): _resolved(v) for k, v in value.items()}
  if not isinstance(value, gin.config.ConfigurableReference):
    return value
  bindings = gin.config._CONFIG.get(value.config_key, {})
  if value.config_key[1] != "gin.macro" or "value" not in bindings:
    return checks.UNKNOWN
  return _resolved(bindings["value"])
