"""Real headless Chromium over a DevTools pipe, with the network off: what a reader without internet sees."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
    "--window-size=1200,1000",
)  # fmt: skip
_DRAWN = """
(() => {
  const canvases = root => {
    const found = root.shadowRoot ? canvases(root.shadowRoot) : [];
    for (const element of root.querySelectorAll("*")) {
      if (element.shadowRoot) found.push(...canvases(element.shadowRoot));
      if (element instanceof HTMLCanvasElement && element.width && element.height) found.push(element);
    }
    return found;
  };
  const painted = canvas => {
    const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const colours = new Set();
    for (let i = 0; i < data.length; i += 4)
      if (data[i + 3]) colours.add((data[i] << 16) | (data[i + 1] << 8) | data[i + 2]);
    return colours.size;
  };
  return {
    idle: typeof Bokeh !== "undefined" && Bokeh.documents.length > 0 && Bokeh.documents.every(d => d.is_idle),
    colours: [...document.querySelectorAll("[data-root-id]")].map(root => Math.max(0, ...canvases(root).map(painted))),
    hacked: window.hacked ?? null,
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    text: document.body.innerText,
  };
})()
"""


@dataclass
class Seen:
    """What a page did: ``colours`` has, for each plot, how many there are on its most colourful canvas."""

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    state: dict[str, Any] = field(default_factory=dict)

    @property
    def colours(self) -> list[int]:
        return self.state.get("colours", [])


class Browser:
    """One Chromium process in its own session, without a network where the system allows that to be taken away."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self._profile = tempfile.mkdtemp()
        # Only root may take the network away; else every name and address leads to a closed port.
        root = os.geteuid() == 0 and shutil.which("unshare") is not None
        walls = [] if root else ["--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9"]
        to_browser, self._out = os.pipe()
        self._in, from_browser = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        shell = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        command = [*(["unshare", "-n"] if root else []), CHROMIUM, *_FLAGS, *walls, f"--user-data-dir={self._profile}"]
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "chromium", *command],
            pass_fds=(to_browser, from_browser),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._number, self._buffer = 0, b""
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.page(f"{domain}.enable")

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._events.append(answer)

    def page(self, method: str, **params: Any) -> dict[str, Any]:
        return self.call(method, self._session, **params)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            data = os.read(self._in, 1 << 20)
            assert data, "Chromium ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path, limit: float = 60.0) -> Seen:
        """Open a file and wait until bokeh says that everything is drawn, or ``limit`` seconds are over."""
        self._events.clear()
        self.page("Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + limit
        state: dict[str, Any] = {}
        while time.monotonic() < end:
            # The browser answers when the page has had 0.1 s to go on drawing.
            self.page("Runtime.evaluate", expression="new Promise(done => setTimeout(done, 100))", awaitPromise=True)
            state = self.page("Runtime.evaluate", expression=_DRAWN, returnByValue=True)["result"].get("value") or {}
            if state.get("idle"):
                break
        seen = Seen(state=state)
        for event in self._events:
            params = event.get("params", {})
            if event["method"] == "Runtime.exceptionThrown":
                details = params["exceptionDetails"]
                seen.errors.append(details.get("exception", {}).get("description") or details["text"])
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                seen.errors.append(params["entry"]["text"])
            elif event["method"] == "Runtime.consoleAPICalled" and params["type"] == "error":
                seen.errors.append(str([argument.get("value") for argument in params["args"]]))
            elif event["method"] == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("data:", "blob:")) and url != path.resolve().as_uri():
                    seen.requests.append(url)
        return seen

    def close(self) -> None:
        os.close(self._out)
        os.close(self._in)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)
