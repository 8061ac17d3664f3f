"""Lists tasks, and shows what an objective does to text: `t5x_lite tasks`."""

import itertools
import re
import sys
import textwrap

from absl import flags

from launch import options

USAGE = "[NAME] [flags]"
DETAILS = """
Without a NAME, lists all tasks and mixtures. With one, or with a gin file that
makes a task, prints some of its raw examples, then the rows that a model reads,
decoded. Tokens with a loss weight are highlighted on a terminal and enclosed in
[[ ]] elsewhere. Also prints the shares of padding and of tokens with loss,
measured over 128 rows.
"""
EXAMPLE = """
t5x_lite tasks
t5x_lite tasks python_docs_span_corruption --num_examples=3
t5x_lite tasks --gin_file=gin/objectives/ul2.gin --gin.TARGETS=128
t5x_lite tasks python_docs_prefix_lm --architecture=prefix \\
  --lengths=inputs=64,targets=64
"""

# As row_formats.ALL has them; its import would load JAX for a help page.
ARCHITECTURES = ("encoder_decoder", "causal", "prefix", "encoder")
_INPUTS = 128
_RAW_CHARACTERS = 400
_MEASURED_BATCHES = 16
_BATCH_SIZE = 8
_MUCH_PADDING = 0.1


def define(values):
  """Defines the command's flags."""
  options.gin_flags(values)  # A gin file may register tasks of its own.
  flags.DEFINE_enum(
    "architecture", None, ARCHITECTURES,
    "Architecture to show rows for; by default the first that suits the task.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_list(
    "lengths", [], "Tokens per feature, as inputs=128,targets=64.",
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "num_examples", 2, "Number of examples to show.", lower_bound=1,
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string("split", "train", "Split to read.", flag_values=values)
  flags.DEFINE_integer(
    "seed", 0, "Seed of order and noise.", flag_values=values
  )
  flags.DEFINE_bool(
    "pack", False, "Pack several examples into a row.", flag_values=values
  )


def main(values, arguments):
  """Lists the tasks, or shows one."""
  from launch import config, environment, session

  environment.load_tasks()
  given = {}  # The gin files' settings of data.Data.
  if values.gin_file or values.gin_bindings:
    session.load(values)
    from t5x_lite.data import Data

    given = config.bound(Data)
  if len(arguments) > 1:
    raise ValueError(f"give one task, not {len(arguments)}: {arguments}")
  name = arguments[0] if arguments else given.get("task")
  if name is None:
    print(_list())
    return
  lengths = options.parse_lengths(values.lengths)
  if name == given.get("task"):
    lengths = lengths or given.get("lengths")
    values.pack = values.pack or given.get("pack", False)
  _show(name, lengths, values)


def _list() -> str:
  import seqio

  sections = []
  for title, registry in (
    ("tasks", seqio.TaskRegistry),
    ("mixtures", seqio.MixtureRegistry),
  ):
    names = sorted(registry.names())
    width = max(map(len, names), default=0)
    lines = [f"  {n:<{width}}  {_describe(registry.get(n))}" for n in names]
    sections.append("\n".join([f"{title}:", *lines]))
  return "\n".join([*sections, "", "See one: t5x_lite tasks NAME"])


def _describe(provider) -> str:
  """Describes a task or mixture in one line."""
  import seqio

  if isinstance(provider, seqio.Mixture):
    rates = provider.rate_per_task_name
    names = (
      f"{name} ({rate if callable(rate) else f'{rate:g}'})"
      for name, rate in sorted(rates.items())
    )
    return f"mixes {', '.join(names)}"
  objective = getattr(provider, "recipe", {}).get("objective")
  about = (type(objective).__doc__ or "") if objective else ""
  if not about:
    steps = [getattr(p, "__name__", str(p)) for p in provider.preprocessors]
    about = f"{', '.join(steps)}."
  return about.strip().splitlines()[0]


def _show(name, lengths, values):
  from t5x_lite import row_formats
  from t5x_lite.data import Data, token_counts
  from t5x_lite.data.reader import Reader
  from t5x_lite.data.resolved_task import resolve

  provider = resolve(name).provider
  names = tuple(provider.output_features)
  if values.architecture:
    row_format = row_formats.ALL[values.architecture]
  else:
    row_format = _first_fit(names)
  lengths = lengths or _default_lengths(provider)
  spec = Data(
    task=name,
    lengths=lengths,
    batch_size=_BATCH_SIZE,
    split=values.split,
    seed=values.seed,
    pack=values.pack,
  )
  reader = Reader(spec, row_format)
  print(f"{name}: {_describe(provider)}")
  print(f"splits: {', '.join(sorted(provider.splits))}")
  if metrics := _metrics(provider):
    print(f"metrics: {', '.join(metrics)}")

  for example in _raw(provider, values):
    print("\n" + _heading("raw example"))
    for feature, value in example.items():
      print(f"{feature}:")
      print(textwrap.indent(_short(value), "  "))

  batches = list(itertools.islice(reader.batches(), _MEASURED_BATCHES))
  rows = (
    {name: array[i] for name, array in batch.items()}
    for batch in batches
    for i in range(_BATCH_SIZE)
  )
  for row in itertools.islice(rows, values.num_examples):
    print("\n" + _heading(f"row for {row_format.name}"))
    for line in _row_lines(row, reader.task.vocabulary):
      print(line)

  totals = {}
  for batch in batches:
    for key, count in token_counts.count(batch).items():
      totals[key] = totals.get(key, 0) + count
  padding = 1 - totals["tokens"] / totals["positions"]
  loss = totals["loss_tokens"] / max(totals["tokens"], 1)
  print(
    f"\nlengths {', '.join(f'{k}={v}' for k, v in lengths.items())}; over "
    f"{_MEASURED_BATCHES * _BATCH_SIZE} rows: padding {padding:.1%} of "
    f"positions, loss on {loss:.1%} of tokens, marked {' '.join(_style())}"
  )
  if padding > _MUCH_PADDING and not values.pack:
    print("--pack packs several examples into a row")


def _metrics(provider) -> list[str]:
  """Returns the names of the metrics of a task, or of a mixture's tasks."""
  import seqio

  wrapped = seqio.metrics.PassthroughLegacyMetric  # seqio wraps metric_fns.
  names = {
    getattr(metric, "__name__", str(metric))
    for task in seqio.get_subtasks(provider)
    for metric in (*task.metric_fns, *task.metric_objs)
    if not isinstance(metric, wrapped)
  }
  return sorted(names)


def _default_lengths(provider) -> dict[str, int]:
  """Returns lengths for a task: 128 inputs, and the matching targets."""
  import seqio

  lengths = {name: _INPUTS for name in provider.output_features}
  plans = [
    task.recipe["objective"].plan(_INPUTS)
    for task in seqio.get_subtasks(provider)
    if hasattr(getattr(task, "recipe", {}).get("objective"), "plan")
  ]
  if plans:
    lengths["targets"] = max(plan.targets for plan in plans)
  return lengths


def _first_fit(names):
  """Returns the first row format that suits these features.

  For a task with weights, the encoder is tried first.
  """
  from t5x_lite import row_formats

  order = list(row_formats.ALL.values())
  if "weights" in names:
    order.insert(0, row_formats.ENCODER)
  reasons = []
  for row_format in order:
    try:
      row_format.check(names)
    except ValueError as error:
      reasons.append(str(error))
    else:
      return row_format
  raise ValueError(reasons[0])


def _raw(provider, values):
  """Yields raw examples of the sources, from each task in turn."""
  import seqio

  streams = []
  for task in seqio.get_subtasks(provider):
    if values.split in task.splits:
      dataset = task.source.get_dataset(
        split=values.split, shuffle=True, seed=values.seed
      )
      streams.append(dataset.as_numpy_iterator())
  turns = itertools.chain.from_iterable(itertools.zip_longest(*streams))
  examples = (example for example in turns if example is not None)
  return itertools.islice(examples, values.num_examples)


def _short(value) -> str:
  if not isinstance(value, bytes):
    return str(value)
  text = value.decode("utf-8", errors="replace")
  if len(text) <= _RAW_CHARACTERS:
    return text
  return f"{text[:_RAW_CHARACTERS]} ... ({len(text):,} characters in all)"


def _heading(text) -> str:
  return f"\033[1m{text}\033[0m" if sys.stdout.isatty() else f"-- {text}"


def _row_lines(row, vocabulary):
  """Yields lines that show one row of a batch."""
  for side in ("encoder", "decoder"):
    if f"{side}_segment_ids" not in row:
      continue
    segment_ids = row[f"{side}_segment_ids"]
    padding = int((segment_ids == 0).sum())
    weights = row.get(f"{side}_loss_weights")
    shown = [f"{side}_input_tokens"] if side == "encoder" else []
    if weights is not None:
      shown.append(f"{side}_target_tokens")
    for feature in shown:
      yield f"{feature} ({len(segment_ids)} positions, {padding} padding)"
      for segment in range(1, int(segment_ids.max()) + 1):
        mine = segment_ids == segment
        marks = weights[mine] > 0 if feature.endswith("target_tokens") else None
        text = mark_text(vocabulary, row[feature][mine], marks)
        text = _count_repeats(text)
        yield textwrap.indent(text, "  ", lambda line: True)
    prompt = row.get(f"{side}_causal_attention")
    if prompt is not None and prompt.any():
      count = int(prompt.sum())
      unit = "position" if count == 1 else "positions"
      yield f"{side}_causal_attention: {count} {unit}"


def _count_repeats(text) -> str:
  """Shortens "<extra_id_0> <extra_id_0> <extra_id_0>" to "<extra_id_0> x3"."""
  from t5x_lite.data import sentinels

  return re.sub(
    rf"({sentinels.SENTINEL.pattern})(?: ?\1){{2,}}",
    lambda match: f"{match[1]} x{match[0].count(match[1])}",
    text,
  )


def _style() -> tuple[str, str]:
  """Returns the marks before and after tokens with a loss weight."""
  return ("\033[7m", "\033[0m") if sys.stdout.isatty() else ("[[", "]]")


def mark_text(vocabulary, ids, marks=None, *, style=None) -> str:
  """Decodes tokens, and marks those with a loss weight.

  a [[<extra_id_0> b]] </s>

  Args:
    vocabulary: a seqio vocabulary.
    ids: token ids, with EOS anywhere.
    marks: which of them to mark; None marks none.
    style: the text before and after marked tokens; by default reverse video on
      a terminal and [[ ]] elsewhere.
  """
  style = style or _style()
  ids = [int(i) for i in ids]
  marks = [False] * len(ids) if marks is None else [bool(m) for m in marks]
  pieces = _pieces(vocabulary, ids)
  text = ""
  for marked, group in itertools.groupby(
    zip(marks, pieces, strict=True), key=lambda pair: pair[0]
  ):
    stretch = "".join(piece for _, piece in group)
    if marked:  # Leading and trailing spaces are not marked.
      inner = stretch.strip(" ") or stretch
      before, _, after = stretch.partition(inner)
      stretch = f"{before}{style[0]}{inner}{style[1]}{after}"
    text += stretch
  return text.strip()


def _pieces(vocabulary, ids) -> list[str]:
  """Returns the text that each token adds, with EOS written as </s>."""
  pieces, start = [], 0
  for end, token in enumerate([*ids, vocabulary.eos_id]):
    if token != vocabulary.eos_id:
      continue
    shown = 0
    for n in range(start + 1, end + 1):
      # A character of several tokens is added by the last of them.
      text = vocabulary.decode(ids[start:n])
      whole = text.rstrip("\ufffd") if n < end else text
      pieces.append(whole[shown:])
      shown = max(shown, len(whole))
    if end < len(ids):
      pieces.append(" </s> ")
    start = end + 1
  return pieces
