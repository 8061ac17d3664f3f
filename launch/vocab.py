"""Trains a SentencePiece vocabulary: `t5x_lite vocab`."""

from absl import flags

from launch import flag_checks, options

USAGE = "--input=FILES --output=NAME.model [flags]"
DETAILS = """
Input files are plain text or JSON Lines, detected from their contents; they may
be compressed, local or remote (gs://). A line ends at LF, CR LF or CR. The
model has no sentinels: tasks add the extra ids that their objective needs.
"""
EXAMPLE = """
t5x_lite vocab --input='novels/*.txt' --output=novels.model --vocab_size=8000
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
    "vocab_size", 8000, "Number of pieces.", lower_bound=1,
    upper_bound=10_000_000, flag_values=values,
  )  # fmt: skip
  flags.DEFINE_enum(
    "model_type", "bpe", ["bpe", "unigram"],
    "Algorithm: bpe trains faster; unigram is T5's, and encodes faster.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    "field", "text", "Field of the text in JSON Lines.", flag_values=values
  )


def main(values, arguments):
  """Trains the vocabulary."""
  options.no_arguments("vocab", arguments)
  options.require(values, "input", "output")
  flag_checks.output(values, "output")
  from launch import environment

  environment.load_tasks()
  from tasks import sentencepiece_training

  sentencepiece_training.train_sentencepiece(
    values.input,
    values.output,
    vocab_size=values.vocab_size,
    model_type=values.model_type,
    field=values.field,
  )
