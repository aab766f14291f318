"""Look at the site in a browser: python website/look.py SITE PICTURES [PAGE...].

Chromium loads pages at the widths of a desktop and of a telephone, takes a picture of each, and
reports what a reader would suffer from:

- a page that scrolls sideways;
- a request for anything outside of the site;
- a block of code without a button that copies it.

The DevTools protocol is spoken over a pipe (--remote-debugging-pipe): messages of JSON that end
with a zero byte, on the descriptors 3 (to the browser) and 4.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Self

PAGES = ("index.html", "guide/README.html", "reference/manifest.html")
WIDTHS = {1280: 900, 390: 844}
"""Widths of windows, with heights."""
LIMIT = 60.0
"""Seconds for one answer of the browser."""

_WIDE = """
[...document.querySelectorAll('body *')].filter(e => {
  const r = e.getBoundingClientRect();
  if (r.width === 0 || r.right <= WIDTH + 1 || r.left >= WIDTH) return false;
  for (let p = e.parentElement; p; p = p.parentElement)
    if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
  return true;
}).slice(0, 3).map(e => e.tagName + ' ' + e.textContent.trim().slice(0, 40))
"""
_CODE = """
[...document.querySelectorAll('div.highlight')].filter(e => !e.querySelector('.copybtn'))
  .map(e => e.textContent.trim().slice(0, 40))
"""
_WIDTH = "document.documentElement.scrollWidth"


class Browser:
    """A browser without a window. Use it as a context manager."""

    def __init__(self) -> None:
        self._number = 0
        self._buffer = b""
        self.requests: list[str] = []

    def __enter__(self) -> Self:
        program = shutil.which("chromium") or shutil.which("chromium-browser")
        if program is None:
            raise SystemExit("error: no chromium; run: scripts/install-packages look")
        self._profile = tempfile.TemporaryDirectory(prefix="northstar-look-")
        theirs, self._to = os.pipe()
        self._from, ours = os.pipe()
        # The shell gives the pipes the numbers 3 and 4.
        shell = ["sh", "-c", f'exec "$@" 3<&{theirs} 4>&{ours}', "sh"]
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += ["--remote-debugging-pipe", f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            [*shell, program, *options, "about:blank"],
            pass_fds=(theirs, ours),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(ours)
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        attached = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Runtime"):
            self.ask(f"{domain}.enable")
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._to)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._from)
        self._profile.cleanup()

    def ask(self, method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call a method of the page."""
        return self.call(method, parameters, self._session)

    def call(
        self, method: str, parameters: dict[str, Any] | None = None, session: str | None = None
    ) -> dict[str, Any]:
        """Call a method of the browser, and return its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method}
        message["params"] = parameters or {}
        if session is not None:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                result: dict[str, Any] = answer["result"]
                return result

    def load(self, url: str, width: int, height: int) -> None:
        """Show a page in a window of this size, and wait until it is complete."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.ask("Emulation.setDeviceMetricsOverride", size)
        failure = self.ask("Page.navigate", {"url": url}).get("errorText")
        deadline = time.monotonic() + LIMIT
        while self.value("document.readyState + location.href") != f"complete{url}":
            if failure or time.monotonic() > deadline:
                raise SystemExit(f"error: cannot load {url}: {failure or 'timeout'}")
            time.sleep(0.05)

    def value(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript in the page."""
        found = self.ask("Runtime.evaluate", {"expression": expression, "returnByValue": True})
        return found["result"].get("value")

    def picture(self, path: Path) -> None:
        """Take a picture of what the window shows."""
        found = self.ask("Page.captureScreenshot", {"format": "png"})
        path.write_bytes(base64.b64decode(found["data"]))

    def _read(self) -> dict[str, Any]:
        deadline = time.monotonic() + LIMIT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0, deadline - time.monotonic()))
            data = os.read(self._from, 1 << 20) if ready else b""
            if not data:
                raise SystemExit("error: the browser has ended or does not answer")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message


def main() -> int:
    """Take the pictures, print what is wrong, and return the exit code."""
    site, pictures = (Path(argument).resolve() for argument in sys.argv[1:3])
    pages = sys.argv[3:] or PAGES
    pictures.mkdir(parents=True, exist_ok=True)
    wrong = []
    with Browser() as browser:
        for page in pages:
            for width, height in WIDTHS.items():
                browser.load((site / page).as_uri(), width, height)
                picture = pictures / f"{page.removesuffix('.html').replace('/', '-')}-{width}.png"
                browser.picture(picture)
                print(picture)
                where = f"{page} at {width} px"
                # Not innerWidth: on a telephone it grows with a page that is too wide.
                if browser.value(_WIDTH) > width:
                    what = browser.value(_WIDE.replace("WIDTH", str(width)))
                    wrong.append(f"{where} scrolls sideways: {what}")
                wrong += [f"{where}: no button copies: {code}" for code in browser.value(_CODE)]
        inside = (site.as_uri(), "data:", "about:")
        requests = dict.fromkeys(url for url in browser.requests if not url.startswith(inside))
        wrong += [f"a page loads {url}" for url in requests]
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
