"""A demo that is really served, and a browser that really uses it; for tests and benchmarks."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
PATIENCE_S = 60.0  # on a busy machine


def browser_missing() -> str | None:
    """Why no browser can be used here, or None."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        return "no Chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)"
    return None


def wait_for(condition: Callable[[], Any], what: str, patience_s: float = PATIENCE_S) -> Any:
    """What the condition gives once it is true; errors on the way count as not yet."""
    end = time.monotonic() + patience_s
    error: Exception | None = None
    while time.monotonic() < end:
        try:
            if value := condition():
                return value
            error = None
        except Exception as caught:  # the page is being drawn
            error = caught
        time.sleep(0.05)
    raise AssertionError(f"waited {patience_s:.0f} s for {what}") from error


class Server:
    """`sam3-hf demo` in a process of its own, with its own folder for temporary files."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder, self.options = folder, options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = os.environ | {
            "HF_HUB_OFFLINE": "1",
            "TMPDIR": str(self.folder),
            "GRADIO_TEMP_DIR": str(self.folder / "gradio"),
            "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "src"), os.environ.get("PYTHONPATH", "")]),
        }
        self.log = open(self.folder / "log.txt", "ab")  # noqa: SIM115 - closed in `stop`
        command = [sys.executable, "-m", "sam3_hf", "demo", "--device", "cpu", "--port", str(self.port), *self.options]
        self.process = subprocess.Popen(command, env=environment, stdout=self.log, stderr=self.log)
        try:
            wait_for(self._answers, f"the server to start; see {self.folder / 'log.txt'}", 120.0)
        except AssertionError:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self.process.poll() is None, (self.folder / "log.txt").read_text()[-2000:]
        with urllib.request.urlopen(self.url, timeout=5) as answer:
            return bool(answer.status == 200)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def restart(self) -> None:
        self.stop()
        self.start()

    def visitors(self) -> list[Path]:
        """The folders of the users that the server knows."""
        return list(self.folder.glob("sam3-hf-demo-*"))


def open_browser(downloads: Path, size: tuple[int, int] = (1280, 1000)) -> Any:
    """A headless Chromium with a camera that shows a test picture; what it downloads goes to a folder."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    width, height = size
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    for flag in ("--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"):
        options.add_argument(flag)
    options.add_argument(f"--window-size={width},{height}")
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)})
    return driver


class Page:
    """The demo in a browser, as a user sees it: by what is on the screen."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver, self.url = driver, url
        self.phone_width: int | None = None

    def open(self) -> "Page":
        self.driver.get(self.url)
        wait_for(lambda: self.one("#s3-find").is_displayed() and self.one("#s3-examples button"), "the page")
        return self

    def one(self, css: str) -> Any:
        return self.driver.find_element("css selector", css)

    def all(self, css: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", css))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def wait(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_for(condition, what)

    def click(self, css: str) -> None:
        element = self.wait(lambda: self.one(css), css)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        wait_for(element.is_enabled, f"{css} to be enabled")
        element.click()

    def tab(self, name: str) -> None:
        button = next(one for one in self.all("button[role=tab]") if one.text == name)
        self.run("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

    def text(self, css: str) -> str:
        return "\n".join(one.text for one in self.all(css))

    def type(self, css: str, text: str) -> None:
        """Types in place of what is there."""
        from selenium.webdriver.common.keys import Keys

        field = self.one(css)
        self.run("arguments[0].scrollIntoView({block: 'center'})", field)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.DELETE)
        field.send_keys(text)

    def find(self, phrases: str) -> None:
        self.type("#s3-phrases textarea", phrases)
        self.click("#s3-find")

    def upload(self, css: str, path: Path) -> None:
        self.wait(lambda: self.all(f"{css} input[type=file]"), f"a place for files in {css}")
        self.one(f"{css} input[type=file]").send_keys(str(path))

    def press(self, css: str, name: str) -> None:
        """Clicks the button of that accessible name or text."""
        wanted = [one for one in self.all(f"{css} button") if name in (one.get_attribute("aria-label") or one.text)]
        assert wanted, f"no button {name!r} in {css}"
        wanted[0].click()

    def outlines(self, stage: str = "#s3-stage") -> dict[int, str]:
        """The outlines of the objects on a stage, by their numbers."""
        script = """return [...document.querySelectorAll(arguments[0] + ' .s3-object')].map(
            (one) => [Number(one.dataset.number), one.querySelector('.s3-body').getAttribute('d')])"""
        return dict(self.run(script, stage))

    def tool(self, name: str, stage: str = "#s3-stage") -> None:
        self.click(f"{stage} [data-tool={name}]")

    def drag(self, box: tuple[float, float, float, float], stage: str = "#s3-stage") -> None:
        """Draws a box with the mouse; xyxy in pixels of the picture."""
        from selenium.webdriver.common.action_chains import ActionChains

        svg, start, end = self._place(stage, *box[:2]), self._offset(stage, *box[:2]), self._offset(stage, *box[2:])
        chain = ActionChains(self.driver, duration=40).move_to_element_with_offset(svg, *start).click_and_hold()
        half = ((start[0] + end[0]) // 2, (start[1] + end[1]) // 2)
        chain.move_to_element_with_offset(svg, *half).move_to_element_with_offset(svg, *end).release().perform()

    def point(self, x: float, y: float, stage: str = "#s3-stage", press: bool = True) -> None:
        """Moves the mouse to a point, in pixels of the picture, and clicks there."""
        from selenium.webdriver.common.action_chains import ActionChains

        chain = ActionChains(self.driver, duration=40)
        chain.move_to_element_with_offset(self._place(stage, x, y), *self._offset(stage, x, y))
        (chain.click() if press else chain).perform()

    def _place(self, stage: str, x: float, y: float) -> Any:
        svg = self.one(f"{stage} svg")
        self.run("arguments[0].scrollIntoView({block: 'center'})", svg)
        return svg

    def _offset(self, stage: str, x: float, y: float) -> tuple[int, int]:
        script = """const box = arguments[0].getBoundingClientRect(), view = arguments[0].viewBox.baseVal;
            return [box.width, box.height, view.width, view.height]"""
        width, height, across, down = self.run(script, self.one(f"{stage} svg"))
        return round(x * width / across - width / 2), round(y * height / down - height / 2)

    def set_threshold(self, value: float) -> None:
        from selenium.webdriver.common.keys import Keys

        self.type("#s3-threshold input[type=number]", f"{value}")
        self.one("#s3-threshold input[type=number]").send_keys(Keys.TAB)

    def as_phone(self, width: int = 390, height: int = 844, scale: float = 1.0) -> None:
        self.phone_width = width
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": True}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def as_desktop(self) -> None:
        self.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def is_too_wide(self) -> bool:
        """Whether a phone has to be panned sideways; its `innerWidth` grows with what is too wide."""
        return bool(self.run("return document.scrollingElement.scrollWidth") > (self.phone_width or 0))
