"""Tables of options, by whose rows config.json is both read and written.

A row ties an option to a setting of a Transformer:

    Option("n_head", "attention.num_heads")               required
    Option("resid_pdrop", "layer.dropout_rate", 0.1)      0.1: its default
    Option("afn", "mlp.activation", "gelu")
    Option("bias", ("attention.projections.use_bias", "mlp.use_bias"), False)
                                             both are read, the first is written

A setting is named by its part and field. The parts are those of one stack:
"stack", its "layer", "attention", "attention.projections", "attention.core",
"mlp", "expert" (of a mixture), "norm" and "position"; and those of the
Transformer, "embedding" and "lm_head". The Transformer's own fields stand
without a part: "width".
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from t5x_lite.interop import rope as rope_options
from t5x_lite.interop.config import ACTIVATIONS, REQUIRED, Config
from t5x_lite.nn.attention import Attention, CoreAttention, Projections
from t5x_lite.nn.attention_rules import Causal, Full
from t5x_lite.nn.embedding import Embedding
from t5x_lite.nn.feedforward import MLP
from t5x_lite.nn.heads import LMHead
from t5x_lite.nn.moe import MoE
from t5x_lite.nn.norms import LayerNorm
from t5x_lite.nn.positions import Learned
from t5x_lite.nn.stack import Layer, Stack
from t5x_lite.nn.transformer import Transformer

Settings = Mapping[str, Any]  # "attention.num_heads" -> 12


class Option(NamedTuple):
  """Ties an option of config.json to settings of a Transformer.

  Attributes:
    theirs: the option's name.
    ours: the setting, or settings that have the same value.
    default: theirs, where config.json states none; or a function of the
      settings read before it. Its type is that of the option: a float, true or
      false, a word, or else a whole number.
    names: what its values mean, {theirs: ours}, of words those of ACTIVATIONS
      if no others; of several for one, the last is written.
    written: what is written, where that is not `ours`.
  """

  theirs: str
  ours: str | tuple[str, ...]
  default: Any = REQUIRED
  names: Mapping[Any, Any] | None = None
  written: str | None = None

  @property
  def paths(self) -> tuple[str, ...]:
    """Returns the settings that it gives."""
    return (self.ours,) if isinstance(self.ours, str) else self.ours

  @property
  def meanings(self) -> Mapping[Any, Any] | None:
    """Returns {theirs: ours}, or None where values mean themselves."""
    return (
      ACTIVATIONS
      if isinstance(self.default, str) and not self.names
      else self.names
    )

  def read(self, config: Config, settings: Settings) -> Any:
    """Returns our value."""
    default = _value(self.default, settings)
    match self.default:
      case str():
        return config.choice(self.theirs, self.meanings, default)
      case bool():
        value = config.flag(self.theirs, default)
      case float():
        value = config.number(self.theirs, default)
      case _:
        value = config.integer(self.theirs, default)
    return self.meanings[value] if self.meanings else value

  def write(self, parts: Mapping[str, Any]) -> Any:
    """Returns their value."""
    part, _, field = (self.written or self.paths[0]).rpartition(".")
    value = getattr(parts[part], field)
    if self.meanings is None:
      return value
    return {ours: theirs for theirs, ours in self.meanings.items()}[value]


def _value(value: Any, settings: Settings) -> Any:
  return value(settings) if callable(value) else value


def four_widths(settings: Settings) -> int:
  """Returns the size of a feed-forward where none is stated."""
  return 4 * settings["width"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
  """All options of a family with one stack, or of one side of a family.

  Attributes:
    rows: what config.json states.
    fixed: settings that the family always has, or functions of the others.
    aliases: second names of options, {alias: name}.
    always: options that may have one value only, {name: value}.
    without_effect: names of options that do nothing to the logits.
    side: "decoder" or "encoder".
    cross_attention: whether layers attend to an encoder too.
    mlp, norm, position: classes of the parts.
    rope: the rotary encoding, which states itself; None means a `position`.
    stack_norms: which norms the stack has beside those of its layers.
  """

  rows: Sequence[Option]
  fixed: Settings = dataclasses.field(default_factory=dict)
  aliases: Mapping[str, str] = dataclasses.field(default_factory=dict)
  always: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  without_effect: Sequence[str] = ()
  side: str = "decoder"
  cross_attention: bool = False
  mlp: type[nn.Module] = MLP
  norm: type[nn.Module] = LayerNorm
  position: type[nn.Module] = Learned
  rope: rope_options.Rotary | None = None
  stack_norms: Sequence[str] = ("final_norm",)

  def read(self, config: Config) -> Transformer:
    """Builds the Transformer that a config.json describes."""
    return self.transformer(self.settings(config))

  def settings(self, config: Config) -> dict[str, Any]:
    """Reads all settings."""
    config.aliases(**self.aliases)
    for name, value in self.always.items():
      config.expect(name, value)
    config.without_effect(*self.without_effect)
    settings = dict(self.fixed)
    for row in self.rows:
      settings |= dict.fromkeys(row.paths, row.read(config, settings))
    settings = {path: _value(v, settings) for path, v in settings.items()}
    if settings.get("attention.head_dim") is None:
      whole, by = self._theirs("width"), self._theirs("attention.num_heads")
      settings["attention.head_dim"] = config.share(whole, by)
    if self.rope:
      settings["stack.position"] = self.rope.read(config)
    return settings

  def _theirs(self, ours: str) -> str:
    return next(row.theirs for row in self.rows if ours in row.paths)

  def transformer(self, settings: Settings) -> Transformer:
    """Builds a Transformer of this one stack."""
    return Transformer(
      **{self.side: self.stack(settings)},
      embedding=Embedding(**_of("embedding", settings)),
      lm_head=LMHead(**_of("lm_head", settings)),
      **_of("", settings),
    )

  def stack(self, settings: Settings) -> Stack:
    """Builds the stack."""
    attention = Attention(
      projections=Projections(**_of("attention.projections", settings)),
      core=CoreAttention(**_of("attention.core", settings)),
      **_of("attention", settings),
    )
    norm = self.norm(**_of("norm", settings))
    mlp = _of("mlp", settings)
    if expert := _of("expert", settings):
      mlp = MoE(expert=self.mlp(**expert), **mlp)
    else:
      mlp = self.mlp(**mlp)
    layer = Layer(
      attention=attention,
      cross_attention=attention if self.cross_attention else None,
      mlp=mlp,
      norm=norm,
      **_of("layer", settings),
    )
    around = dict.fromkeys(self.stack_norms, norm) | _of("stack", settings)
    if "position" not in around:
      around["position"] = self.position(**_of("position", settings))
    around.setdefault("rule", Full() if self.side == "encoder" else Causal())
    return Stack(layer=layer, **around)

  def write(self, transformer: Transformer) -> dict[str, Any]:
    """Returns the options that describe a Transformer."""
    stack = getattr(transformer, self.side)
    layer = stack.period[0]
    parts = {
      "": transformer,
      "embedding": transformer.embedding,
      "lm_head": transformer.lm_head,
      "stack": stack,
      "layer": layer,
      "attention": layer.attention,
      "attention.projections": layer.attention.projections,
      "attention.core": layer.attention.core,
      "mlp": layer.mlp,
      "expert": getattr(layer.mlp, "expert", None),
      "norm": layer.norm,
      "position": stack.position,
    }
    options = {row.theirs: row.write(parts) for row in self.rows}
    if self.rope:
      options |= self.rope.write(stack.position)
    return options


def _of(part: str, settings: Settings) -> dict[str, Any]:
  """Returns the settings of one part by their fields."""
  prefix = f"{part}." if part else ""
  return {
    path.removeprefix(prefix): value
    for path, value in settings.items()
    if path.rpartition(".")[0] == part
  }
