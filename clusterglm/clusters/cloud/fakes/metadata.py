"""The instance metadata of a rehearsed machine, as Amazon and Google have them: they tell of a notice once there is
one, the file ``instance-action`` in the machine's folder. Amazon's answer holders of a token alone.
"""

from __future__ import annotations

import secrets
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

ADDRESS = "169.254.169.254"
NOTICE = "instance-action"
_TOKEN = secrets.token_hex(16)


class _Answers(BaseHTTPRequestHandler):
    folder: Path

    def do_PUT(self) -> None:
        wanted = self.path == "/latest/api/token" and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        self._answer(200 if wanted else 400, _TOKEN if wanted else "")

    def do_GET(self) -> None:
        file = self.folder / NOTICE
        if self.path == "/computeMetadata/v1/instance/preempted":
            known = self.headers.get("Metadata-Flavor") == "Google"
            self._answer(200 if known else 403, str(file.exists()).upper() if known else "")
        elif self.headers.get("X-aws-ec2-metadata-token") != _TOKEN:
            self._answer(401, "")
        elif self.path == "/latest/meta-data/spot/instance-action" and file.exists():
            self._answer(200, file.read_text())
        else:
            self._answer(404, "")

    def _answer(self, code: int, text: str) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: the console is the machine's."""


if __name__ == "__main__":
    _Answers.folder = Path(sys.argv[1])
    HTTPServer((ADDRESS, 80), _Answers).serve_forever()
