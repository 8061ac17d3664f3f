"""Trains a SentencePiece vocabulary: `t5x_lite vocab`."""

from absl import flags

USAGE = "--input=FILES --output=NAME.model [flags]"
DETAILS = """
Files are .txt, .txt.gz or .jsonl (its "text" field). The vocabulary has no
sentinels of its own: tasks add as many extra ids as their objective needs.
"""
EXAMPLE = """
t5x_lite vocab --input='corpus/*.txt' --output=corpus.model --size=8000
"""


def define(values):
  """Defines the command's flags."""
  flags.DEFINE_list(
    "input", [], "Text files or globs, separated by commas.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "output", None, "The .model file to write.", flag_values=values
  )
  flags.DEFINE_integer(
    "size", 8000, "Pieces in the vocabulary.", flag_values=values
  )
  flags.DEFINE_enum(
    "model_type", "unigram", ["unigram", "bpe", "char", "word"],
    "SentencePiece's algorithm.", flag_values=values,
  )  # fmt: skip


def main(values, arguments):
  """Trains the vocabulary and says what it is like."""
