"""Shows the progress of a long job."""

import sys
import time

import jax
import tqdm

from t5x_lite.files.slow import announced


class Progress:
  """Shows progress: a bar on a terminal, elsewhere an occasional line."""

  def __init__(self, total, done):
    self.total, self.done, self.first = total, done, done
    self.begun = time.monotonic()
    is_main = jax.process_index() == 0
    self.bar = tqdm.tqdm(
      total=total, initial=done, unit="text", disable=None if is_main else True
    )
    self.plain = is_main and not sys.stderr.isatty()
    if self.plain and done:
      resuming = f"resuming after {done} of {total} texts"
      all_done = f"all {total} texts are already done"
      print(all_done if done == total else resuming, file=sys.stderr)

  def update(self, count):
    self.done += count
    self.bar.update(count)
    if self.plain and self.done == self.total:
      print(self._line(), file=sys.stderr, flush=True)

  def _line(self) -> str:
    line = f"{self.done}/{self.total} texts"
    if self.done > self.first:
      rate = (self.done - self.first) / (time.monotonic() - self.begun)
      left = tqdm.tqdm.format_interval((self.total - self.done) / rate)
      line += f", {rate:.1f} texts/s, {left} left"
    return line

  def __enter__(self):
    what = "computing" if self.plain else None
    self._announced = announced(what, detail=self._line)
    self._announced.__enter__()
    return self

  def __exit__(self, *exc_info):
    self._announced.__exit__(None, None, None)
    self.bar.close()
    if exc_info[0] is not None and self.done < self.total:
      if jax.process_index() == 0:
        print(
          f"stopped after {self.done} of {self.total} texts; the same command "
          "resumes there",
          file=sys.stderr,
        )
