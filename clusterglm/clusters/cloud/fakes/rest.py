"""An HTTP server over loopback that answers in JSON: what the fakes of clouds with a REST API have in common."""

from __future__ import annotations

import json
import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Answer = tuple[int, Any]  # a status, and what is sent as JSON, None for nothing
Route = Callable[..., Answer]


class Server(ABC):
    """Answers requests by ``routes``: a method and a pattern of paths, and who answers it.

    Whoever answers gets the words of the pattern's groups, and ``query`` and ``body``. One request at a time, because
    what they change is one. ``sent`` are all requests so far, as method, path and body.
    """

    def __init__(self, routes: Mapping[tuple[str, str], Route], port: int = 0) -> None:
        self.routes, self.lock = routes, threading.RLock()
        self.sent: list[tuple[str, str, Any]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                content = self.rfile.read(size)
                headers = {name.lower(): value for name, value in self.headers.items()}
                status, said = server.answer(self.command, self.path, content, headers)
                data = b"" if said is None else json.dumps(said).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_DELETE = do_PUT = do_PATCH = answer  # noqa: N815  the names that http.server asks for

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}"

    def answer(self, method: str, target: str, content: bytes, headers: Mapping[str, str]) -> Answer:
        """Return the answer to a request."""
        parts = urlsplit(target)
        path, query = unquote(parts.path).rstrip("/"), {key: each[-1] for key, each in parse_qs(parts.query).items()}
        body = json.loads(content) if content and "json" in headers.get("content-type", "") else None
        with self.lock:
            self.sent.append((method, path, body))
            if (refused := self.refusal(path, headers)) is not None:
                return refused
            for (wanted, pattern), route in self.routes.items():
                if wanted == method and (match := re.fullmatch(pattern, path)):
                    return route(*match.groups(), query=query, body=body)
        return self.unknown(path)

    @abstractmethod
    def refusal(self, path: str, headers: Mapping[str, str]) -> Answer | None:
        """Return the answer to a request without the right credentials, None where they are right."""

    @abstractmethod
    def unknown(self, path: str) -> Answer:
        """Return the answer for a path that leads nowhere."""

    def close(self) -> None:
        """End the server."""
        self.http.shutdown()
        self.http.server_close()
