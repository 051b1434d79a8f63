"""Chromium without a window, driven by its DevTools protocol."""

import asyncio
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp

Answer = TypeVar("Answer")
PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless=new",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--enable-unsafe-swiftshader",
    "--use-angle=swiftshader",
    "--ignore-gpu-blocklist",
    "--remote-debugging-port=0",
    "--window-size=1400,900",
    # Whatever a page tries, no name resolves.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
_START_SECONDS = 60.0


class Browser:
    """One page. `requests` are the addresses it asked for; `errors` is what its console reported, violations of the policy included."""

    def __init__(self, *flags: str) -> None:
        """Start it, with `flags` beside those that every run has."""
        self._folder = Path(tempfile.mkdtemp(prefix="browser-"))
        sandbox = ["--no-sandbox"] if os.getuid() == 0 else []
        self._process = subprocess.Popen(
            [str(PROGRAM), *_FLAGS, *flags, *sandbox, f"--user-data-dir={self._folder}", "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[Any]] = {}
        self._session = ""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._run(self._connect(self._port()))
        except BaseException:
            self.close()
            raise

    def go(self, address: str) -> None:
        """Open an address."""
        self.send("Page.navigate", url=address)

    def before_pages(self, script: str) -> None:
        """Have every page that is opened from now on run a script first."""
        self.send("Page.addScriptToEvaluateOnNewDocument", source=script)

    def evaluate(self, script: str) -> Any:
        """Return the value of an expression in the page; a promise is awaited."""
        answer = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(f"{script[:200]}: {answer['exceptionDetails'].get('exception', {}).get('description', answer)}")
        return answer["result"].get("value")

    def wait(self, condition: str, seconds: float = 60.0) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while True:
            try:
                if self.evaluate(f"!!({condition})"):
                    return
            except (AssertionError, KeyError, RuntimeError):  # the page is being replaced
                pass
            if time.monotonic() > end:
                raise AssertionError(f"never true in {seconds:.0f} s: {condition}; console: {self.errors[-5:]}")
            time.sleep(0.2)

    def wheel(self, x: float, y: float, distance: float) -> None:
        """Turn the mouse wheel at a point."""
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        self.send("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=distance)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Press the left mouse button at a point and release it at another."""
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2)
        self.send("Input.dispatchMouseEvent", type="mouseMoved", x=start[0], y=start[1])
        self.send("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], button="left", clickCount=1)
        for x, y in (middle, end):
            self.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
        self.send("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], button="left", clickCount=1)

    def press(self, key: str, code: int = 0, text: str = "") -> None:
        """Press and release a key by its DOM name."""
        for kind in ("keyDown", "keyUp"):
            self.send(
                "Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text if kind == "keyDown" else ""
            )

    def screenshot(self, path: Path) -> Path:
        """Write what the page looks like as PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))
        return path

    def send(self, method: str, **parameters: Any) -> Any:
        """Return the answer to a command of the protocol."""
        return self._run(self._send(method, parameters))

    def close(self) -> None:
        """End the browser."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._run(self._client.close())
        self.close()

    def _port(self) -> int:
        end = time.monotonic() + _START_SECONDS
        file = self._folder / "DevToolsActivePort"
        while time.monotonic() < end:
            if file.exists() and (lines := file.read_text().splitlines()):
                return int(lines[0])
            time.sleep(0.1)
        raise AssertionError(f"{PROGRAM} does not start")

    def _run(self, work: Coroutine[Any, Any, Answer]) -> Answer:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(120)

    async def _connect(self, port: int) -> None:
        self._client = aiohttp.ClientSession()
        async with self._client.get(f"http://127.0.0.1:{port}/json/version") as answer:
            address = (await answer.json())["webSocketDebuggerUrl"]
        self._socket = await self._client.ws_connect(address, max_msg_size=0)
        self._reader = asyncio.ensure_future(self._read())
        target = (await self._send("Target.createTarget", {"url": "about:blank"}))["targetId"]
        self._session = (await self._send("Target.attachToTarget", {"targetId": target, "flatten": True}))["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            await self._send(f"{domain}.enable", {})

    async def _send(self, method: str, parameters: dict[str, Any]) -> Any:
        number = next(self._numbers)
        self._answers[number] = self._loop.create_future()
        message = {"id": number, "method": method, "params": parameters, **({"sessionId": self._session} if self._session else {})}
        await self._socket.send_str(json.dumps(message))
        return await asyncio.wait_for(self._answers[number], 100)

    async def _read(self) -> None:
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                return
            self._take(json.loads(message.data))

    def _take(self, found: dict[str, Any]) -> None:
        parameters = found.get("params", {})
        match found.get("method"):
            case None:
                future = self._answers.get(found["id"])
                if future is not None and not future.done():
                    if "error" in found:
                        future.set_exception(RuntimeError(found["error"]["message"]))
                    else:
                        future.set_result(found["result"])
            case "Network.requestWillBeSent":
                self.requests.append(parameters["request"]["url"])
            case "Log.entryAdded" if parameters["entry"]["level"] == "error":
                self.errors.append(parameters["entry"]["text"])
            case "Runtime.exceptionThrown":
                details = parameters["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
