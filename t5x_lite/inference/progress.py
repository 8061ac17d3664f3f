"""Shows how far a long job is."""

import sys
import time

import jax
import tqdm


class Progress:
  """Says how far a file is: a bar on a terminal, else now and then a line."""

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
      going_on = f"going on after {done} of {total} texts"
      done_already = f"all {total} texts are done already"
      print(done_already if done == total else going_on, file=sys.stderr)

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
          "goes on from there",
          file=sys.stderr,
        )
