"""Debian's Chromium without a window, over its debugging pipe: what a page logs, asks for, shows and answers."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time

NAMES = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless", "--remote-debugging-pipe", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--hide-scrollbars",
)  # fmt: skip
PATIENCE = 60  # seconds


def found():
    """The program, or nothing."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """A browser of its own, with nothing of the user's."""

    def __init__(self, folder):
        (read, self.out), (self.input, write) = os.pipe(), os.pipe()
        root = ["--no-sandbox"] if os.geteuid() == 0 else []
        words = [found(), *OPTIONS, *root, f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", f'exec "$@" 3<&{read} 4>&{write}', "bash", *words],
            pass_fds=(read, write),
            **dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL),
        )
        os.close(read)
        os.close(write)
        self.number, self.rest, self.events = 0, b"", []

    def call(self, method, session=None, **params):
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        message |= {"sessionId": session} if session else {}
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def receive(self):
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            assert select.select([self.input], [], [], max(0, end - time.monotonic()))[0], "the browser does not answer"
            self.rest += os.read(self.input, 1 << 20)
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def close(self):
        self.call("Browser.close")
        self.process.wait(PATIENCE)
        os.close(self.out)
        os.close(self.input)


class Page:
    """One page in a tab of its own."""

    def __init__(self, browser, width=1280, height=900):
        self.browser = browser
        self.target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.size(width, height)

    def call(self, method, **params):
        return self.browser.call(method, session=self.session, **params)

    def size(self, width, height=900):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def media(self, **features):
        found = [{"name": name.replace("_", "-"), "value": value} for name, value in features.items()]
        self.call("Emulation.setEmulatedMedia", features=found)

    def open(self, address):
        """A fresh visit, also where only the part behind ``#`` is another."""
        self.call("Page.navigate", url="about:blank")
        self.browser.events.clear()
        self.call("Page.navigate", url=address)
        self.wait("document.documentElement?.dataset.ready")

    def run(self, code):
        """What JavaScript gives, as plain data."""
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, code):
        end = time.monotonic() + PATIENCE
        while not (value := self.run(code)):
            assert time.monotonic() < end, code
            time.sleep(0.02)
        return value

    def press(self, key):
        code = {"Enter": "\r", "Tab": "\t", " ": " "}[key]
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=code, windowsVirtualKeyCode=ord(code))
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=ord(code))

    def complaints(self):
        """What was logged, thrown or refused since the page was opened."""
        self.run("1")
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event["params"] for event in self.browser.events if event.get("method") in kinds]

    def requests(self):
        """Addresses that were asked for; what lies in the page itself is none."""
        sent = [event["params"] for event in self.browser.events if event.get("method") == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent if not one["request"]["url"].startswith("data:")]

    def picture(self, path, *, whole=True):
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))

    def paper(self, path):
        path.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=False)["data"]))
