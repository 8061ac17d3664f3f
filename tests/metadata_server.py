"""Stands in for Google Cloud's metadata server."""

import contextlib
import http.server
import threading

_PREFIX = "/computeMetadata/v1/instance/"


@contextlib.contextmanager
def serving(entries):
  """Serves a mapping, which may change meanwhile; yields the address."""

  class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
      value = entries.get(self.path.removeprefix(_PREFIX))
      allowed = self.headers["Metadata-Flavor"] == "Google"
      self.send_response(404 if value is None or not allowed else 200)
      self.end_headers()
      self.wfile.write((value or "").encode())

    def log_message(self, *args):
      pass

  with http.server.HTTPServer(("localhost", 0), Handler) as server:
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"localhost:{server.server_port}"
    server.shutdown()
    thread.join()
