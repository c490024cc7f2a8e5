"""One page in a headless Chromium, driven over its DevTools pipe; console output and requests are recorded."""

import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXECUTABLE = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """A tab. ``problems`` has all console messages, ``requests`` all requested addresses."""

    def __init__(self, commands: int, answers: int) -> None:
        """``commands`` and ``answers`` are this end's descriptors of the pipe."""
        self._commands, self._answers = commands, answers
        self._sent, self._unread = 0, b""
        self._session: str | None = None
        self.problems: list[str] = []
        self.requests: list[str] = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One DevTools command and its result; events that come before it are noted."""
        self._sent += 1
        message = {"id": self._sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._sent:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            received = os.read(self._answers, 2**16)
            assert received, "chromium has ended"
            self._unread += received
        text, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if message.get("method") in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
            self.problems.append(json.dumps(message["params"]))
        if message.get("method") == "Network.requestWillBeSent":
            self.requests.append(message["params"]["request"]["url"])
        return message

    def open(self, address: str, width: int = 1400) -> None:
        """Load a page and wait until it is drawn."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=1000, deviceScaleFactor=1, mobile=False)
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=address)
        self.evaluate(
            "new Promise(done => document.readyState === 'complete' ? done() : addEventListener('load', done))"
        )
        self.settle()

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited where it is a promise."""
        answer = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Give the page time to draw."""
        self.evaluate("new Promise(done => setTimeout(done, 300))")

    def click(self, selector: str) -> None:
        """Click on the middle of the first element that ``selector`` finds."""
        x, y = self._place(selector)
        self._mouse("mouseMoved", x, y)
        self.settle()  # lets plotly register what it hovers over
        self._mouse("mousePressed", x, y)
        self._mouse("mouseReleased", x, y)
        self.settle()

    def drag(self, selector: str, start: float, end: float) -> None:
        """Drag the mouse across the middle of an element, between these fractions of its width."""
        for kind, across in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            self._mouse(kind, *self._place(selector, across))
            self.settle()

    def _place(self, selector: str, across: float = 0.5) -> tuple[float, float]:
        find = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(f"{find}.scrollIntoView({{block: 'center'}})")
        box = self.evaluate(f"{find}.getBoundingClientRect().toJSON()")
        return box["x"] + box["width"] * across, box["y"] + box["height"] / 2

    def _mouse(self, kind: str, x: float, y: float) -> None:
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def press(self, key: str, text: str = "") -> None:
        """Press a key, such as Tab, or the space bar as ``press(" ", " ")``."""
        code = {"Tab": 9, " ": 32}[key]
        for kind in ("keyDown", "keyUp"):
            shown = {"text": text} if kind == "keyDown" else {}
            self.send("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, **shown)


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A tab of a new Chromium with its profile in the folder ``profile``."""
    assert EXECUTABLE
    command = [EXECUTABLE, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--disable-dev-shm-usage", "--no-first-run", f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    their_commands, commands = os.pipe()
    answers, their_answers = os.pipe()
    # Chromium reads commands from descriptor 3 and writes answers to 4, which may be taken here by any of the four.
    copies = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10) for descriptor in (their_commands, their_answers)]
    process = subprocess.Popen(
        command,
        stderr=subprocess.DEVNULL,
        pass_fds=(3, 4),
        preexec_fn=lambda: [os.dup2(copy, descriptor) for copy, descriptor in zip(copies, (3, 4), strict=True)],
    )
    for descriptor in (their_commands, their_answers, *copies):
        os.close(descriptor)
    try:
        yield Page(commands, answers)
    finally:
        process.terminate()
        process.wait(timeout=10)
        os.close(commands)
        os.close(answers)
