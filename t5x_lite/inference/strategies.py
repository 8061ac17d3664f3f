"""Makes samplers of `transformers`' generation arguments, by one table.

temperature=0.8, top_k=40   decoding.Sample(temperature=0.8, top_k=40)
do_sample=True              decoding.Sample(), or the default if it samples
do_sample=False             decoding.GREEDY
"""

import dataclasses
from typing import Any

from t5x_lite import decoding

# Argument -> the class in `decoding` whose field of that name it sets.
ARGUMENTS = {
  "temperature": decoding.Sample,
  "top_k": decoding.Sample,
  "top_p": decoding.Sample,
}


def sampler(
  default: Any, *, do_sample: bool | None = None, **given: Any
) -> Any:
  """Returns the sampler of generation arguments.

  Args:
    default: the model's own, which arguments change.
    do_sample: whether tokens are drawn at random; None: if the default does, or
      if an argument says how.
    **given: values by the names in `ARGUMENTS`; None is not given.

  Raises:
    ValueError: arguments that contradict each other, or do not fit the default.
  """
  given = {name: value for name, value in given.items() if value is not None}
  if do_sample is False:
    if given:
      name, value = next(iter(given.items()))
      raise ValueError(
        f"{name}={value} has no effect with do_sample=False: leave one out"
      )
    return decoding.GREEDY
  kinds = {ARGUMENTS[name]: name for name in given}
  if len(kinds) > 1:
    one, other = list(kinds.values())[:2]
    raise ValueError(
      f"{one}={given[one]} and {other}={given[other]} are of two ways to "
      "generate: leave one out"
    )
  if default == decoding.GREEDY and (given or do_sample):
    (kind,) = kinds or (decoding.Sample,)
    return kind(**given)
  for name, value in given.items():
    if name not in {field.name for field in dataclasses.fields(default)}:
      raise ValueError(
        f"{name}={value}: {default}, which the model samples by, has no {name}:"
        " leave it out, or name another sampler in the run (run.Run.sampler)"
      )
  return dataclasses.replace(default, **given) if given else default


def check_samples(sampler: Any, **named: int) -> None:
  """Refuses several samples of a sampler that gives the same each time.

  Args:
    sampler: chooses the tokens.
    **named: the number of samples, by the name that the caller knows it by.

  Raises:
    ValueError: `sampler` is greedy and the number is above 1.
  """
  ((name, count),) = named.items()
  if count > 1 and sampler == decoding.GREEDY:
    raise ValueError(
      f"{name}={count} needs sampling, as greedy samples are all "
      "the same: set temperature, top_k or top_p"
    )
