"""Chat templates write what those of `transformers` write."""

import json

import pytest

from t5x_lite.inference import chat

MESSAGES = [
  {"role": "system", "content": "Be brief."},
  {"role": "user", "content": ' Who\'s "there"?\n'},
  {"role": "assistant", "content": "Me."},
  {"role": "user", "content": "Füße <b>"},
]
CHATML = """
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content }}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""
LLAMA = (
  "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'system' %}"
  "<<SYS>>{{ m['content'] | trim }}<</SYS>>{% continue %}{% endif %}"
  "[{{ m['role'] | upper }}] {{ m['content'] | tojson }} {{ eos_token }}"
  "{% endfor %}"
)


def template(folder, text, **settings):
  settings |= {"chat_template": text, "eos_token": "</s>"}
  path = folder / "tokenizer_config.json"
  path.write_text(json.dumps(settings))
  return chat.read(folder)


@pytest.mark.parametrize("text", [CHATML, LLAMA], ids=["chatml", "llama"])
def test_prompts_are_those_of_transformers(text, tmp_path):
  import tokenizers
  import transformers

  words = tokenizers.models.WordLevel({"<s>": 0, "</s>": 1}, unk_token="<s>")
  theirs = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizers.Tokenizer(words),
    bos_token="<s>",
    eos_token="</s>",
  )
  expected = theirs.apply_chat_template(
    MESSAGES, chat_template=text, tokenize=False, add_generation_prompt=True
  )
  ours = template(tmp_path, text, bos_token={"content": "<s>"})
  assert ours.prompt(MESSAGES) == expected
  # Rows may begin with the start token by themselves.
  without = ours.prompt(MESSAGES, start="<s>")
  assert without == expected.removeprefix("<s>")
  (tmp_path / "chat_template.jinja").write_text("{{ messages[0].content }}!")
  assert chat.read(tmp_path).prompt(MESSAGES) == "Be brief.!"


def test_the_default_of_several_templates_is_taken(tmp_path):
  named = [
    {"name": "tools", "template": "t"},
    {"name": "default", "template": "d"},
  ]
  assert template(tmp_path, named).prompt(MESSAGES) == "d"
  assert template(tmp_path, None) is None
  assert chat.read(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
  ("text", "part"),
  [
    ("{{ raise_exception('No system message.') }}", "No system message."),
    ("{{ messages.__class__.__mro__ }}", "unsafe"),
    ("{{ ''.__class__.__base__.__subclasses__() }}", "unsafe"),
    ("{% for %}", "Expected"),
    ("{{ messages.append(1) }}", "unsafe"),
  ],
)
def test_what_a_template_may_not_do_is_refused_in_one_line(
  text, part, tmp_path
):
  with pytest.raises(ValueError, match=part) as caught:
    template(tmp_path, text).prompt(MESSAGES)
  assert "tokenizer_config.json cannot write this" in str(caught.value)
  assert "\n" not in str(caught.value)
