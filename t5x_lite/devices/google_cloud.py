"""Reads what Google Cloud's metadata server knows of this machine."""

import os
import pathlib
import urllib.error
import urllib.request

_PRODUCT = pathlib.Path("/sys/class/dmi/id/product_name")


def is_here() -> bool:
  """Returns whether this machine is one of Google Cloud's."""
  if "GCE_METADATA_IP" in os.environ:
    return True
  try:
    return _PRODUCT.read_text().startswith("Google Compute Engine")
  except OSError:
    return False


def metadata(key: str) -> str | None:
  """Returns an entry of this machine, or None where there is no such server.

  Args:
    key: for example "maintenance-event" or "attributes/NAME".
  """
  host = os.environ.get("GCE_METADATA_IP", "metadata.google.internal")
  request = urllib.request.Request(
    f"http://{host}/computeMetadata/v1/instance/{key}",
    headers={"Metadata-Flavor": "Google"},
  )
  try:
    with urllib.request.urlopen(request, timeout=5) as reply:
      return reply.read().decode()
  except OSError:  # urllib's errors are of this kind.
    return None
