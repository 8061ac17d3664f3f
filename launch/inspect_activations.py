"""Shows a model's activations on a text: `t5x_lite inspect-activations`."""

import pathlib

from absl import flags

from launch import flag_checks, options

USAGE = "--model_dir=RUN --text=TEXT [--targets=TEXT]"
DETAILS = """
Prints for each layer the cosine distance of its input and output (mean over
tokens), and the logit lens: the most probable next tokens if its output at the
last place went to the head. With --from and --to, the places of two tokens,
prints the attention of the first to the second, by layer and head. --output is
a directory for activations.json and pictures: distances.png, lens.png and
attention maps. In an encoder-decoder, --text goes to the encoder and --targets
to the decoder; a decoder-only model reads both as one text.
"""
EXAMPLE = """
t5x_lite inspect-activations --model_dir=runs/quickstart \\
  --text="A list ___ of items." --targets="<extra_id_0> is" --output=inside
t5x_lite inspect-activations --model_dir=runs/palm --text="A list is a" \\
  --from=3 --to=0
"""


def define(values):
  """Defines the command's flags."""
  options.model_dir_flag(values, "Directory of the run to inspect.")
  flags.DEFINE_integer(
    "step", None, "Checkpoint to use; by default the newest.", lower_bound=0,
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string("text", None, "The input text.", flag_values=values)
  flags.DEFINE_string("targets", "", "The target text.", flag_values=values)
  flags.DEFINE_integer(
    "top_k", 5, "Tokens of the logit lens.", lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer(
    "from", None, "Place of the query token.", lower_bound=0,
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_integer(
    "to", None, "Place of the key token.", lower_bound=0, flag_values=values
  )
  flags.DEFINE_string(
    "output", None, "Directory for JSON and pictures.", flag_values=values
  )
  flags.DEFINE_bool("json", False, "Print JSON instead.", flag_values=values)
  options.gin_flags(values, on_top=True)
  options.process_flags(values)


def main(values, arguments):
  """Inspects the model on the text of the flags."""
  options.no_arguments("inspect-activations", arguments)
  options.require(values, "model_dir", "text")
  if (values["from"].value is None) != (values["to"].value is None):
    raise ValueError(
      "--from and --to go together: give the places of two tokens"
    )
  flag_checks.output(values, "output", folder=True)
  from launch import session

  model = session.language_model(values)
  from t5x_lite.files import disk, json_text
  from t5x_lite.inference import inspection

  found = inspection.inspect(
    model.model,
    model.params,
    model.vocabulary,
    model.codec().blanks.mark(values.text),
    values.targets,
    top_k=values.top_k,
  )
  places = values["from"].value, values["to"].value
  between = None
  if None not in places:
    between = found.attention_between(*places)
  as_json = json_text.dumps(
    found.as_json() | {"between": between}, what="activations"
  )
  if values.output:
    from t5x_lite.inference import inspection_pictures

    folder = pathlib.Path(values.output)
    folder.mkdir(parents=True, exist_ok=True)
    disk.write_text(folder / "activations.json", as_json)
    pictures = inspection_pictures.draw(found, folder)
  if values.json:
    print(as_json)
    return
  print(found.as_text())
  if between is not None:
    print(_between(between, found.tokens[found.read], *places))
  if values.output:
    names = ", ".join(path.name for path in pictures)
    print(f"written to {folder}: activations.json, {names}")


def _between(heads_of_layers, tokens, query, key) -> str:
  lines = [f"attention of {query} {tokens[query]!r} to {key} {tokens[key]!r}"]
  for layer, heads in enumerate(heads_of_layers, 1):
    cells = "  ".join(f"{p:.3f}" for p in heads)
    lines.append(f"  {layer:<5}  {cells}")
  return "\n".join(lines)
