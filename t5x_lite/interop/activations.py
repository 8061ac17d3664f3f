"""Activations as config.json names them."""

# Theirs -> ours. Of several names for one, the last is the one to write.
ACTIVATIONS = {
  "relu": "relu",
  "relu2": "relu_squared",
  "tanh": "tanh",
  "gelu_python": "gelu", "gelu": "gelu",
  "gelu_accurate": "gelu_tanh", "gelu_fast": "gelu_tanh",
  "gelu_python_tanh": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
  "gelu_new": "gelu_tanh",
  "swish": "silu", "silu": "silu",
}  # fmt: skip

# Ours -> theirs.
NAMES = {ours: theirs for theirs, ours in ACTIVATIONS.items()}
