"""Writes conversations as prompts, by the template of a tokenizer.

The template is Jinja2 in tokenizer_config.json ("chat_template") or in
chat_template.jinja. It comes with the model, so it runs in a sandbox that can
change nothing and reach no attributes of Python's own.
"""

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from t5x_lite.files import json_text

_FILE, _SETTINGS = "chat_template.jinja", "tokenizer_config.json"


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
  """Holds the template of a tokenizer.

  Attributes:
    text: the template.
    tokens: names of special tokens that it may write, such as "bos_token".
    path: the file that it is from, for messages.
  """

  text: str
  tokens: Mapping[str, str]
  path: str

  def prompt(
    self, messages: Sequence[Mapping[str, str]], *, start: str = ""
  ) -> str:
    """Returns the prompt for the next message of the assistant.

    Args:
      messages: {"role": "user", "system" or "assistant", "content": text}.
      start: what each row begins with, such as "<s>": the prompt goes without.

    Raises:
      ValueError: the template refuses the messages, or is not a template.
    """
    import jinja2

    try:
      text = (
        _environment()
        .from_string(self.text)
        .render(
          messages=list(messages), add_generation_prompt=True, **self.tokens
        )
      )
    except (jinja2.TemplateError, TypeError, ValueError) as error:
      raise ValueError(
        f"the chat template of {self.path} cannot write this: {error}"
      ) from None
    return text.removeprefix(start)


def read(directory: pathlib.Path) -> ChatTemplate | None:
  """Returns the template beside a tokenizer, or None.

  Of several named templates, the one named "default" is taken.
  """
  path = directory / _SETTINGS
  settings = json_text.read(path) if path.exists() else {}
  template = settings.get("chat_template")
  if isinstance(template, list):
    named = {one.get("name"): one.get("template") for one in template}
    template = named.get("default")
  if (directory / _FILE).exists():
    path = directory / _FILE
    template = path.read_text(encoding="utf-8")
  if not isinstance(template, str):
    return None
  tokens = {
    name: token["content"] if isinstance(token, Mapping) else token
    for name, token in settings.items()
    if name.endswith("_token") and token
  }
  tokens = {name: x for name, x in tokens.items() if isinstance(x, str)}
  return ChatTemplate(template, tokens, str(path))


def _environment() -> Any:
  """Returns the sandbox, with what `transformers` gives to templates."""
  import jinja2
  from jinja2 import sandbox

  def refuse(message):
    raise jinja2.TemplateError(message)

  def to_json(value, ensure_ascii=False, indent=None, **options):
    return json_text.dumps(
      value, ensure_ascii=ensure_ascii, indent=indent, **options
    )

  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
  )
  environment.filters["tojson"] = to_json
  environment.globals |= {
    "raise_exception": refuse,
    "strftime_now": lambda form: datetime.datetime.now().strftime(form),
  }
  return environment
