"""LanguageModel: a model with its vocabulary, which reads and writes text.

model = t5x_lite.load("runs/quickstart")
model.generate(["A list is <extra_id_0> of items."], max_new_tokens=8)
model.score(["A <extra_id_0> of items."], ["<extra_id_0> list"])
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_lite import decoding
from t5x_lite.data.vocabularies import converted
from t5x_lite.data.vocabulary_record import Task
from t5x_lite.devices.layout import Layout
from t5x_lite.files.text_files import Record
from t5x_lite.inference import (
  batched,
  embedding,
  infer,
  strategies,
  streaming,
)
from t5x_lite.inference.chat import ChatTemplate
from t5x_lite.model import Model, Params


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModel:
  """Generates, scores and embeds texts.

  `t5x_lite.load` makes it of a run or of a Hugging Face directory.

  Attributes:
    model: the model, with a vocabulary of known size.
    params: the model's parameters.
    task: describes how texts become tokens.
    lengths: the maximum number of tokens of the task's features.
    sampler: the sampler that is used unless arguments change it.
    constraints: the constraints on all generated text.
    layout: the devices that the parameters are on; None means one device.
    chat_template: of the tokenizer, or None.
  """

  model: Model
  params: Params
  task: Task
  lengths: Mapping[str, int]
  sampler: decoding.Sampler = decoding.GREEDY
  constraints: decoding.Constraints = decoding.UNCONSTRAINED
  layout: Layout | None = None
  chat_template: ChatTemplate | None = None

  @property
  def vocabulary(self) -> Any:
    """Returns the vocabulary, which has `encode`, `decode` and `vocab_size`."""
    return self.task.vocabulary

  def chat_prompt(self, messages: Sequence[Mapping[str, str]]) -> str:
    """Returns the prompt for the assistant's next message.

    Args:
      messages: {"role": "user", "system" or "assistant", "content": text}.

    Raises:
      ValueError: there is no chat template, or it refuses the messages.
    """
    if self.chat_template is None:
      raise ValueError(
        f"{self.task.name} has no chat template (chat_template in "
        "tokenizer_config.json, or chat_template.jinja)"
      )
    start = ""
    if isinstance(self.vocabulary, converted.Converted):
      of_encoder = not self.model.row_format.shares_row
      start = self.vocabulary.start_text(of_encoder=of_encoder)
    return self.chat_template.prompt(messages, start=start)

  def generate(
    self,
    texts: Sequence[str],
    *,
    num_return_sequences: int = 1,
    batch_size: int = 32,
    truncate: bool = False,
    continuous: bool = False,
    **arguments: Any,
  ) -> list[str] | list[list[str]]:
    """Returns what the model writes after each text, or for its blanks.

    Args:
      texts: the prompts. A blank is written <extra_id_0>, <extra_id_1>, ...;
        blanks.py has what encoders and GLM take.
      num_return_sequences: the number of texts that are written for each.
      batch_size: texts per batch.
      truncate: whether to truncate long texts rather than refuse them.
      continuous: whether a text that has ended gives its place in the batch to
        the next one: the same texts, sooner if their lengths differ much.
      **arguments: of `generation`. temperature, top_k, top_p, min_p, seed and
        max_new_tokens may be lists, with one value for each text, which is then
        continued as if all had this value. The texts of each combination are
        computed together, by a program of their own.

    Returns:
      A text for each prompt, an encoder's with its masks filled in; with
      num_return_sequences above 1, a list of texts for each.

    Raises:
      ValueError: an argument or a text does not suit the model.
    """
    count = num_return_sequences
    jobs = [
      (
        places,
        self.generation(truncate=truncate, num_return_sequences=count, **given),
      )
      for places, given in strategies.by_text(len(_texts(texts)), arguments)
    ]
    written = {}
    for places, job in jobs:
      strategies.check_samples(job.sampler, num_return_sequences=count)
      copies = 1 if isinstance(job.sampler, decoding.Beam) else count
      rows = [place * copies + i for place in places for i in range(copies)]
      results = infer.run(
        job,
        self.params,
        [{"text": texts[row // copies]} for row in rows],
        batch_size=batch_size,
        layout=self.layout,
        row_ids=rows,
        continuous=continuous,
      )
      for row, result in zip(rows, results, strict=True):
        found = result.get("sequences", [result])
        place = written.setdefault(row // copies, [])
        place += [one["prediction"] for one in found]
    in_order = [written[place] for place in range(len(texts))]
    return [one for (one,) in in_order] if count == 1 else in_order

  def generation(
    self,
    *,
    max_new_tokens: int | None = None,
    stop_strings: Sequence[str] = (),
    seed: int = 0,
    truncate: bool = False,
    num_return_sequences: int = 1,
    **strategy: Any,
  ) -> infer.Generate:
    """Returns the job that generates, as its arguments say.

    Args:
      max_new_tokens: the maximum number of tokens; None takes the model's own.
      stop_strings: a text ends before the first of these.
      seed: the seed of sampling.
      truncate: whether to truncate long texts rather than refuse them.
      num_return_sequences: the texts that are wanted of each prompt. Beams
        return as many; of other strategies, each takes a run of the job.
      **strategy: any of `strategies.ARGUMENTS`, with the meaning that they have
        in `transformers` (docs/decoding.md); by default the model's own. An
        `assistant` is a LanguageModel that drafts.

    Raises:
      TypeError: there is no such argument.
      ValueError: values that do not fit, or contradict each other.
    """
    for name in strategy:
      if name not in strategies.ARGUMENTS:
        raise TypeError(
          f"generate has no argument {name!r}; it has max_new_tokens, "
          f"{', '.join(strategies.ARGUMENTS)}, num_return_sequences, "
          "stop_strings, seed, batch_size, truncate and continuous"
        )
    top_k, size = strategy.get("top_k"), self.vocabulary.vocab_size
    if top_k is not None and top_k > size:
      raise ValueError(
        f"top_k={top_k} is more than the {size} tokens of the vocabulary: give "
        "fewer, or leave it out"
      )
    default = strategies.Settings(self.sampler, self.constraints)
    settings = strategies.settings(
      default,
      vocabulary=self.vocabulary,
      count=num_return_sequences,
      **strategy,
    )
    is_one = isinstance(stop_strings, str)
    return infer.Generate(
      model=self.model,
      codec=self.codec(truncate=truncate),
      max_new_tokens=max_new_tokens,
      **settings._asdict(),
      seed=seed,
      stop=(stop_strings,) if is_one else tuple(stop_strings),
    )

  def stream(
    self, text: str, *, truncate: bool = False, **arguments: Any
  ) -> Iterator[str]:
    """Yields pieces of what `generate` returns for a text, as they come.

    Args:
      text: the prompt.
      truncate: whether to truncate a long text rather than refuse it.
      **arguments: of `generation`.

    Raises:
      ValueError: an argument or the text does not suit the model.
    """
    job = self.generation(truncate=truncate, **arguments)
    example = job.encode(Record("text 1", {"text": text}))
    if not streaming.is_streamable(job.strategy):
      yield self.generate([text], truncate=truncate, **arguments)[0]
      return
    ends = job.constraints.end_ids(self.vocabulary.eos_id)
    watched = streaming.Watched(self.model, ends[0] if ends else None)
    watching = dataclasses.replace(job, model=watched)

    def compute():
      batches = [(np.zeros(1, np.int32), infer.batch(job, [example]))]
      size = batched.round_up(1, self.layout)
      ((_, row),) = batched.compute(
        lambda batch, row_ids: watching.compute(self.params, batch, row_ids),
        batches,
        batch_size=size,
        layout=self.layout,
      )
      return row["tokens"][0][: int(row["lengths"][0])]

    yield from streaming.stream(compute, job.read, job.stop)

  def scoring(
    self,
    *,
    per_token: bool = False,
    truncate: bool = False,
    delimiter: str | None = None,
  ) -> infer.Score:
    """Returns the job that scores targets; see `infer.Score`."""
    return infer.Score(
      model=self.model,
      codec=self.codec(truncate=truncate, delimiter=delimiter),
      per_token=per_token,
    )

  def score(
    self,
    inputs: Sequence[str] | None,
    targets: Sequence[str],
    *,
    batch_size: int = 32,
    truncate: bool = False,
    delimiter: str | None = None,
  ) -> list[float]:
    """Returns log p(targets | inputs) of each pair, in nats.

    Args:
      inputs: the given texts; None for a language model, which then scores the
        targets as whole texts.
      targets: the texts that are scored.
      batch_size: pairs per batch.
      truncate: whether to truncate long texts rather than refuse them.
      delimiter: the text between inputs and targets that continue them; None
        takes the task's.

    Raises:
      ValueError: there are not as many inputs as targets, or a text does not
        suit the model.
    """
    name = "text" if inputs is None else "targets"
    records = [{name: text} for text in _texts(targets)]
    if inputs is not None:
      if len(_texts(inputs)) != len(records):
        raise ValueError(
          f"{len(inputs)} inputs for {len(records)} targets: give one each"
        )
      records = [
        {"inputs": given} | record
        for given, record in zip(inputs, records, strict=True)
      ]
    job = self.scoring(truncate=truncate, delimiter=delimiter)
    found = infer.run(
      job, self.params, records, batch_size=batch_size, layout=self.layout
    )
    return [result["log_likelihood"] for result in found]

  def embed(
    self,
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    truncate: bool = False,
  ) -> np.ndarray:
    """Returns the mean last hidden state of each text, [texts, width].

    See `embedding.embed`.
    """
    return embedding.embed(
      self.model,
      self.params,
      self.codec(truncate=truncate),
      _texts(texts),
      batch_size=batch_size,
      layout=self.layout,
    )

  def codec(
    self, *, truncate: bool = False, delimiter: str | None = None
  ) -> infer.Codec:
    """Returns what turns texts into the model's tokens and back."""
    return infer.codec(
      self.task,
      self.model.row_format,
      self.lengths,
      truncate=truncate,
      delimiter=delimiter,
    )


def _texts(texts: Sequence[str]) -> Sequence[str]:
  """Refuses one text in place of a list of them."""
  if isinstance(texts, str):
    raise ValueError(f"texts must be a list of texts: [{texts!r:.40}]")
  return texts
