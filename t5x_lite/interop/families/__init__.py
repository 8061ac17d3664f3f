"""Holds the Hugging Face families, one file each: options and names.

A file has

    MODEL_TYPES   {"llama": "LlamaForCausalLM"}: what config.json calls it
    TENSORS       a Table: the names of its parameters, theirs and ours
    OPTIONS       an Options: what its options say, for both directions
    read(config)  returns the Transformer that a config.json describes
    write(transformer)   returns the options that describe a Transformer

(T5 and Switch Transformers, of two sides and several kinds of layers, have a
reader and a writer instead of OPTIONS; BART has Options for each side)

and, where names hang on more than which parameters there are,

    tensors(transformer)   returns the Table that holds instead of TENSORS

`write` need not ask whether the family can say all that the Transformer is:
what it wrote is read again, and must be the same computation.
"""

import functools
import importlib
import pkgutil
from types import ModuleType

from t5x_lite.interop.tables import Table
from t5x_lite.nn.transformer import Transformer


@functools.cache
def by_model_type() -> dict[str, ModuleType]:
  """Returns model_type -> the family's module, in the order of files."""
  names = sorted(module.name for module in pkgutil.iter_modules(__path__))
  modules = [importlib.import_module(f"{__name__}.{name}") for name in names]
  return {
    model_type: module
    for module in modules
    for model_type in module.MODEL_TYPES
  }


def tensors(family: ModuleType, transformer: Transformer) -> Table:
  """Returns a family's names of the parameters of a Transformer."""
  if hasattr(family, "tensors"):
    return family.tensors(transformer)
  return family.TENSORS
