"""A headless Chromium over its own debugging protocol (https://chromedevtools.github.io/devtools-protocol/), no driver.

For pages that have a canvas: opens one, asks it in JavaScript, and ends with everything that it has started.
"""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from console_client import Client

START_S, ANSWER_S = 60, 30


class Browser:
    """Chromium with one page; a context manager."""

    def __enter__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="kumo-browser-"))
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += ["--no-first-run", "--disable-extensions", "--disable-background-networking", "--mute-audio"]
        command += ["--remote-debugging-port=0", f"--user-data-dir={self.folder}", "--window-size=1000,800"]
        log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(
            [*command, "about:blank"], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            port = self._wait_for_port()
            self.browser = Client(port[0], port[1], address="127.0.0.1")
            assert self.browser.status == 101, self.browser.head
            self.number = 0
            pages = self._call(self.browser, "Target.getTargets")["targetInfos"]
            page = next(one["targetId"] for one in pages if one["type"] == "page")
            self.page = Client(port[0], f"/devtools/page/{page}")
            self.page.socket.settimeout(ANSWER_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(15)
        shutil.rmtree(self.folder, ignore_errors=True)

    def open(self, url: str) -> None:
        """Go to a page; it may still be loading."""
        self._call(self.page, "Page.navigate", url=url)

    def ask(self, expression: str):
        """What a JavaScript expression, or the promise it gives, comes to."""
        answer = self._call(self.page, "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60):
        """The expression's first true value; what it cannot be asked of yet, a page that is loading, has none."""
        until = time.monotonic() + seconds
        while not (value := self._try(expression)):
            assert time.monotonic() < until, f"not within {seconds} s: {expression}; the page: {self.ask(PAGE)}"
            time.sleep(0.25)
        return value

    def _try(self, expression: str):
        try:
            return self.ask(expression)
        except AssertionError:
            return None

    def press(self, text: str) -> None:
        """Type a text into what has the focus, key by key."""
        for letter in text:
            number = ord(letter.upper())
            key = {"key": letter, "text": letter, "code": f"Key{letter.upper()}", "windowsVirtualKeyCode": number}
            if letter == "\n":
                key = {"key": "Enter", "text": "\r", "code": "Enter", "windowsVirtualKeyCode": 13}
            self._call(self.page, "Input.dispatchKeyEvent", type="keyDown", **key)
            self._call(self.page, "Input.dispatchKeyEvent", type="keyUp", **{**key, "text": ""})

    def _wait_for_port(self) -> tuple[int, str]:
        path, until = self.folder / "DevToolsActivePort", time.monotonic() + START_S
        while not (path.exists() and len(path.read_text().split()) == 2):
            log = (self.folder / "log").read_text(errors="replace")[-2000:]
            assert self.process.poll() is None, f"chromium has ended: {log}"
            assert time.monotonic() < until, f"chromium does not answer: {log}"
            time.sleep(0.1)
        port, target = path.read_text().split()
        return int(port), target

    def _call(self, client: Client, method: str, **params) -> dict:
        self.number += 1
        client.send(json.dumps({"id": self.number, "method": method, "params": params}).encode(), opcode=1)
        while True:
            answer = json.loads(client.receive()[1])
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]


STATUS = "document.querySelector('#status').innerText"  # noVNC's words at its top
PAGE = "document.location.href.split('?')[0] + ': ' + (document.body ? document.body.innerText.slice(0, 200) : '')"
CANVAS = "document.querySelector('#screen canvas')"
# [pixels in all, pixels that are lit] of noVNC's canvas.
COUNT = f"""(() => {{
    const canvas = {CANVAS};
    if (!canvas || !canvas.width) return [0, 0];
    const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
    let lit = 0;
    for (let i = 0; i < data.length; i += 4) if (data[i] + data[i + 1] + data[i + 2] > 120) lit++;
    return [data.length / 4, lit];
}})()"""


def count_pixels(browser: Browser) -> tuple[int, int]:
    """(all, lit) pixels of noVNC's canvas."""
    total, lit = browser.ask(COUNT)
    return total, lit


def compare_canvas(browser: Browser, picture: bytes) -> tuple[list[int], int]:
    """([width, height], how many pixels differ) of noVNC's canvas and a picture: PNG, or PPM as older QEMUs give it."""
    if picture.startswith(b"P6"):
        _, size, _, data = picture.split(b"\n", 3)
        width, height = map(int, size.split())
        load = f"""
            const bytes = Uint8Array.from(atob('{base64.b64encode(data).decode()}'), letter => letter.charCodeAt(0));
            const pixel = i => [bytes[3 * i], bytes[3 * i + 1], bytes[3 * i + 2]];
            const size = [{width}, {height}];"""
    else:
        load = f"""
            const image = new Image();
            image.src = 'data:image/png;base64,{base64.b64encode(picture).decode()}';
            await image.decode();
            const other = document.createElement('canvas');
            other.width = image.width; other.height = image.height;
            other.getContext('2d').drawImage(image, 0, 0);
            const bytes = other.getContext('2d').getImageData(0, 0, image.width, image.height).data;
            const pixel = i => [bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2]];
            const size = [image.width, image.height];"""
    return tuple(
        browser.ask(f"""(async () => {{{load}
            const canvas = {CANVAS};
            const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
            let different = canvas.width === size[0] && canvas.height === size[1] ? 0 : data.length / 4;
            for (let i = 0; i < Math.min(data.length / 4, size[0] * size[1]); i++) {{
                const one = pixel(i);
                if (Math.abs(one[0] - data[4 * i]) + Math.abs(one[1] - data[4 * i + 1])
                    + Math.abs(one[2] - data[4 * i + 2]) > 24) different++;
            }}
            return [[canvas.width, canvas.height], different];
        }})()""")
    )
