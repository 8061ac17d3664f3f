"""The model stack: every architecture of the field from the same few parts.

Tensors here carry their shape in their name, `q_BNTH`, by this one table:

  B batch      T query length   S key length    D model width
  N heads      K kv heads       G = N / K       H head_dim
  F hidden     E experts        C capacity      L layers       V vocabulary
"""
