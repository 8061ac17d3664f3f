"""Shows the progress of a long job."""

import sys
import time

import jax
import tqdm


class Progress:
  """Shows progress: a bar on a terminal, elsewhere an occasional line."""

  seconds_between_lines = 30.0

  def __init__(self, total, done):
    self.total, self.done, self.first = total, done, done
    self.begun = self.said = time.monotonic()
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
    now = time.monotonic()
    if self.plain and (
      self.done == self.total or now - self.said > self.seconds_between_lines
    ):
      self.said = now
      rate = (self.done - self.first) / max(now - self.begun, 1e-9)
      left = tqdm.tqdm.format_interval((self.total - self.done) / rate)
      print(
        f"{self.done}/{self.total} texts, {rate:.1f} texts/s, {left} left",
        file=sys.stderr,
        flush=True,
      )

  def __enter__(self):
    return self

  def __exit__(self, *exc_info):
    self.bar.close()
    if exc_info[0] is not None and self.done < self.total:
      if jax.process_index() == 0:
        print(
          f"stopped after {self.done} of {self.total} texts; the same command "
          "resumes there",
          file=sys.stderr,
        )
