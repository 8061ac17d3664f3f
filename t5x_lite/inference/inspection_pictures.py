"""Draws an inspection: cosine distances, logit lens and attention maps."""

import pathlib
import warnings

import numpy as np

from t5x_lite.files import disk
from t5x_lite.inference.inspection import Inspection

# Pictures show only the first tokens of a long text.
_MOST_TOKENS = 40


def draw(inspection: Inspection, folder: pathlib.Path) -> list[pathlib.Path]:
  """Writes PNG pictures into a folder, and returns their paths."""
  # Figure needs no display and, unlike pyplot, has no global state.
  from matplotlib.figure import Figure

  def save(figure, name):
    path = folder / f"{name}.png"
    with warnings.catch_warnings():
      # Characters that the font does not have are drawn as boxes.
      warnings.filterwarnings("ignore", "Glyph .* missing from font")
      with disk.partial(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, bbox_inches="tight")
    return path

  paths = [
    save(_distances(Figure((7, 4)), inspection), "distances"),
    save(_lens(Figure(), inspection), "lens"),
  ]
  for name, trace in inspection.traces.items():
    stem, tokens = name.replace("/", "_"), inspection.tokens[name]
    figure = _maps(Figure(), trace.attention[:, 0], tokens, tokens)
    paths.append(save(figure, f"{stem}_attention"))
    if trace.cross_attention is not None:
      source = inspection.tokens["encoder"]
      figure = _maps(Figure(), trace.cross_attention[:, 0], tokens, source)
      paths.append(save(figure, f"{stem}_cross_attention"))
  return paths


def _distances(figure, inspection):
  axes = figure.subplots()
  for name, marker in zip(inspection.distances, "osv^", strict=False):
    rows = inspection.distances[name]
    layers = np.arange(1, len(rows) + 1)
    axes.plot(layers, rows.mean(axis=1), marker=marker, label=name)
    axes.fill_between(layers, rows.min(axis=1), rows.max(axis=1), alpha=0.2)
  axes.set_xticks(range(1, 1 + max(map(len, inspection.distances.values()))))
  axes.set_xlabel("layer")
  axes.set_ylabel("cosine distance of input and output")
  axes.set_title("How far each layer turns its input (mean and range)")
  axes.legend()
  return figure


def _lens(figure, inspection):
  lens = [layer[:_MOST_TOKENS] for layer in inspection.lens]
  tokens = inspection.tokens[inspection.read][:_MOST_TOKENS]
  likeliest = np.array([[words[0][1] for words in layer] for layer in lens])
  figure.set_size_inches(2 + 0.7 * len(tokens), 1.5 + 0.4 * len(lens))
  axes = figure.subplots()
  image = axes.imshow(
    likeliest, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower"
  )
  for layer, words in enumerate(lens):
    for place, ((piece, p), *_) in enumerate(words):
      colour = "black" if p > 0.5 else "white"
      axes.text(
        place, layer, _plain(piece), ha="center", va="center", fontsize=7,
        color=colour,
      )  # fmt: skip
  axes.set_yticks(range(len(lens)), ["input", *range(1, len(lens))])
  _name_places(axes.set_xticks, tokens, rotation=60)
  axes.set_xlabel(f"token that the {inspection.read} reads")
  axes.set_ylabel("layer")
  axes.set_title("Likeliest next token after each layer (logit lens)")
  figure.colorbar(image, label="probability")
  return figure


def _maps(figure, maps, queries, keys):
  """Draws [L, N, T, S], a row for each layer and a column for each head."""
  layers, heads = maps.shape[:2]
  queries, keys = queries[:_MOST_TOKENS], keys[:_MOST_TOKENS]
  maps = maps[:, :, : len(queries), : len(keys)]
  width = 1 + heads * (0.6 + 0.13 * len(keys))
  figure.set_size_inches(width, 0.6 + layers * (0.5 + 0.13 * len(queries)))
  grid = figure.subplots(layers, heads, squeeze=False, sharex=True, sharey=True)
  for (layer, head), axes in np.ndenumerate(grid):
    axes.imshow(maps[layer, head], cmap="cividis", vmin=0, vmax=1)
    axes.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=7)
    if layer == layers - 1:
      _name_places(axes.set_xticks, keys, rotation=90)
    if head == 0:
      _name_places(axes.set_yticks, queries)
  return figure


def _name_places(set_ticks, tokens, **settings):
  set_ticks(range(len(tokens)), list(map(_plain, tokens)), fontsize=6,
            **settings)  # fmt: skip


def _plain(piece: str) -> str:
  """Escapes a text for matplotlib: no formulas, no unprintable characters."""
  shown = "".join(c if c.isprintable() else "\N{MIDDLE DOT}" for c in piece)
  return shown.replace("$", r"\$")
