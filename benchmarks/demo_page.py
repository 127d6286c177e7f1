"""Times of the web demo in a real browser, and the pictures of it in the docs.

    python benchmarks/demo_page.py [--pictures docs/images]

Serves the bundled model on the CPU, uses the page in headless Chromium as people do, and prints medians: from pressing
the button to the first object on the screen, the picture having been encoded; for a second phrase; for a box, a click,
the threshold. Needs the extras `demo` and `dev`, and Debian's chromium and chromium-driver.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests"))

from demo_browser import Page, Server, browser_missing, open_browser  # noqa: E402
from sam3_hf.bundled import SAMPLE_PHRASES  # noqa: E402
from sam3_hf.demo import example_pictures  # noqa: E402

MAX_COLORS = 128  # of a PNG in the docs: enough for a page, and small


def main() -> None:
    """Prints the times; with --pictures writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--pictures", type=Path, metavar="DIR", help="write demo_image.png, demo_compare.png, ... there"
    )
    arguments = parser.parse_args()
    if reason := browser_missing():
        sys.exit(reason)
    with tempfile.TemporaryDirectory() as folder:
        server = Server(Path(folder) / "server")
        driver = open_browser(Path(folder) / "downloads")
        try:
            page = Page(driver, server.url)
            picture = Path(folder) / "picture.png"
            example_pictures()[0].image.save(picture)
            measure(page, picture, arguments.repeats)
            if arguments.pictures:
                arguments.pictures.mkdir(parents=True, exist_ok=True)
                photograph(page, arguments.pictures)
        finally:
            driver.quit()
            server.stop()


def timed(act: Callable[[], Any], is_done: Callable[[], Any], page: Page, what: str) -> float:
    """Seconds from the start of what a user does until the page shows its result."""
    begun = time.perf_counter()
    act()
    page.wait(is_done, what)
    return time.perf_counter() - begun


def measure(page: Page, picture: Path, repeats: int) -> None:
    """Prints medians and ranges over `repeats` fresh pages."""
    times: dict[str, list[float]] = {}

    def note(what: str, act: Callable[[], Any], is_done: Callable[[], Any]) -> None:
        times.setdefault(what, []).append(timed(act, is_done, page, what))

    for _ in range(repeats):
        page.open()
        note(
            "upload to picture, encoded",
            lambda: page.upload("#s3-picture", picture),
            lambda: page.all("#s3-stage svg image"),
        )
        page.type("#s3-phrases textarea", SAMPLE_PHRASES[0])
        note("button to first object", lambda: page.click("#s3-find"), page.outlines)
        page.type("#s3-phrases textarea", SAMPLE_PHRASES[1])
        note("second phrase", lambda: page.click("#s3-find"), partial(changed, page, page.outlines()))
        page.tool("like")
        note("box to its answer", lambda: page.drag((10, 10, 90, 90)), lambda: page.all("#s3-stage .s3-like"))
        note("threshold", lambda: page.set_threshold(0.95), partial(differ, page, page.outlines()))
    for what, seconds in times.items():
        low, high = min(seconds), max(seconds)
        print(f"{what}: {statistics.median(seconds):.2f} s ({low:.2f} to {high:.2f}, {len(seconds)} times)")


def differ(page: Page, before: dict[int, str]) -> bool:
    """Whether what is shown is no longer as it was; there may be nothing."""
    return page.outlines() != before


def changed(page: Page, before: dict[int, str]) -> bool:
    """Whether there are objects, and others than before."""
    return bool(page.outlines()) and page.outlines() != before


def photograph(page: Page, folder: Path) -> None:
    """Writes the pictures of the docs: tab for pictures, on a phone in the dark, comparison, video."""
    page.open()
    page.click("#s3-examples button")
    page.wait(page.outlines, "objects")
    number = min(page.outlines())
    page.run(f"document.querySelector('#s3-stage [data-number=\"{number}\"]').focus()")
    save(page, folder / "demo_image.png", 1280)
    page.as_phone(scale=1.5)
    page.click("#s3-dark")
    page.run("document.querySelector('#s3-stage').scrollIntoView()")
    time.sleep(0.5)
    write(page, folder / "demo_phone.png")
    page.click("#s3-dark")
    page.as_desktop()
    page.tab("Compare")
    page.click("#s3-compare-example")
    page.wait(lambda: page.outlines("#s3-with"), "both answers")
    save(page, folder / "demo_compare.png", 1280)
    page.tab("Video")
    page.click("#s3-video-example")
    page.wait(lambda: page.all("#s3-video-stage svg image"), "the first frame")
    page.click("#s3-follow")
    page.wait(lambda: page.all("#s3-annotated video"), "the end")
    time.sleep(1.0)
    save(page, folder / "demo_video.png", 1280)


def save(page: Page, path: Path, width: int) -> None:
    """A picture of the whole page."""
    height = page.run("return document.querySelector('gradio-app').scrollHeight")
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": min(height, 1500), "deviceScaleFactor": 1, "mobile": False},
    )
    page.run("window.scrollTo(0, 0)")
    time.sleep(0.5)
    write(page, path)
    page.as_desktop()


def write(page: Page, path: Path) -> None:
    """What is on the screen, as a small PNG."""
    page.driver.save_screenshot(str(path))
    with Image.open(path) as shot:
        rgb = shot.convert("RGB")
        rgb.thumbnail((960, 2000), Image.Resampling.LANCZOS)
        small = rgb.quantize(MAX_COLORS, kmeans=2, dither=Image.Dither.NONE)
    small.save(path, optimize=True)
    print(f"wrote {path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
