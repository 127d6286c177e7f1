"""The web demo as people and programs use it: served, in a real browser, and through gradio_client.

One server (the bundled model) and one browser serve all tests; without Chromium those that need it are skipped.
"""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gradio")
pytest.importorskip("selenium")
pytest.importorskip("av")

from demo_browser import Page, Server, browser_missing, open_browser, wait_for
from sam3_hf.bundled import SAMPLE_PHRASES
from sam3_hf.demo import example_clip, example_pictures
from sam3_hf.ops.masks import rle_decode
from sam3_hf.video import open_video

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.xdist_group("demo")]
needs_browser = pytest.mark.skipif(browser_missing() is not None, reason=str(browser_missing()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files to give to the demo."""
    folder = tmp_path_factory.mktemp("given")
    example_pictures()[0].image.save(folder / "picture.png")
    example_clip(folder / "clip.mp4")
    with open_video(folder / "clip.mp4", end=6) as frames:
        from sam3_hf.video.writers import VideoWriter

        with VideoWriter(folder / "short.mp4", 8.0) as writer:
            for frame in frames:
                writer.write(frame.image)
    ramp = np.add.outer(np.arange(5000), np.arange(6000)).astype(np.uint8)
    Image.fromarray(ramp).save(folder / "large.jpg", quality=40)
    (folder / "broken.png").write_text("not a picture")
    (folder / "broken.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    served = Server(tmp_path_factory.mktemp("server"))
    yield served
    served.stop()


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("downloads")


@pytest.fixture(scope="module")
def browsing(server: Server, downloads: Path) -> Iterator[Page]:
    driver = open_browser(downloads)
    yield Page(driver, server.url)
    driver.quit()


@pytest.fixture
def page(browsing: Page) -> Page:
    """The page, freshly opened."""
    return browsing.open()


@pytest.fixture
def found(page: Page) -> Page:
    """The page with our first picture and what its phrases name in it."""
    page.click("#s3-examples button")
    page.wait(page.outlines, "objects")
    return page


def largest(page: Page) -> tuple[int, tuple[float, float, float, float]]:
    """Number and box of the largest object, from the table."""
    rows = [[cell.text for cell in row.find_elements("css selector", "td")] for row in page.all("#s3-table tbody tr")]
    best = max(rows, key=lambda row: int(row[3].replace(",", "")))
    x0, y0, x1, y1 = (float(value) for value in best[4].split(","))
    return int(best[0]), (x0, y0, x1, y1)


# ---- pictures ----


@needs_browser
def test_a_phrase_gives_overlay_table_and_names(page: Page, folder: Path) -> None:
    page.upload("#s3-picture", folder / "picture.png")
    page.wait(lambda: page.all("#s3-stage svg image"), "the picture")
    page.find(", ".join(SAMPLE_PHRASES))
    outlines = page.wait(page.outlines, "objects")
    assert len(page.all("#s3-table tbody tr")) == len(outlines)
    assert all(phrase in page.text("#s3-counts") for phrase in SAMPLE_PHRASES)
    picture = page.one("#s3-stage svg")
    assert "marked objects" in picture.get_attribute("aria-label")
    loaded = page.run(
        "const i = new Image(); i.src = arguments[0]; return i.decode().then(() => i.naturalWidth)",
        page.one("#s3-stage svg image").get_attribute("href"),
    )
    assert loaded == 448
    _, box = largest(page)
    page.point((box[0] + box[2]) / 2, (box[1] + box[3]) / 2, press=False)
    name = page.wait(lambda: page.text("#s3-stage .s3-tip"), "the name under the mouse")
    assert "score 0." in name and any(phrase in name for phrase in SAMPLE_PHRASES)


@needs_browser
def test_a_picture_comes_from_the_camera(page: Page) -> None:
    page.press("#s3-picture", "Capture from camera")
    page.wait(lambda: page.press("#s3-picture", "Click to Access Webcam") or True, "the camera")
    live = "const v = document.querySelector('#s3-picture video'); return v && v.readyState >= 2 && v.currentTime > 0"
    page.wait(lambda: page.run(live), "the camera's picture")
    page.press("#s3-picture", "capture photo")
    assert page.wait(lambda: page.all("#s3-stage svg image"), "the picture on the stage")


@needs_browser
def test_a_picture_comes_from_the_clipboard(page: Page) -> None:
    permissions = {"origin": page.url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
    copied = page.driver.execute_async_script(
        """const done = arguments[0], canvas = document.createElement("canvas");
        canvas.width = 96; canvas.height = 64;
        canvas.toBlob((blob) => navigator.clipboard.write([new ClipboardItem({"image/png": blob})])
            .then(() => done("copied"), (error) => done(String(error))));"""
    )
    assert copied == "copied"
    page.press("#s3-picture", "Paste from clipboard")
    page.wait(lambda: page.all("#s3-stage svg image"), "the picture on the stage")
    assert page.run("return document.querySelector('#s3-stage svg').viewBox.baseVal.width") == 96


@needs_browser
def test_boxes_clicks_and_undo(found: Page) -> None:
    before = found.outlines()
    number, box = largest(found)
    middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    found.point(*middle)
    assert f"Selected object {number}" in found.wait(lambda: found.text("#s3-stage .s3-hint"), "a hint")
    found.tool("cut")
    found.point(box[0] + 0.3 * (box[2] - box[0]), middle[1])
    found.wait(lambda: found.outlines() != before, "the correction")
    after = found.outlines()
    assert {key for key in before if before[key] != after[key]} == {number}
    assert len(found.all("#s3-stage .s3-click.s3-unlike")) == 1 and "refined" in found.text("#s3-table")
    found.click("#s3-undo")
    found.wait(lambda: found.outlines() == before, "the step back")

    found.tool("like")
    found.drag(box)
    found.wait(lambda: found.all("#s3-stage .s3-box.s3-like"), "the box")
    found.wait(lambda: found.outlines() != before, "another answer")
    found.tool("unlike")
    found.point(10, 380)  # two corners instead of a drag, as on a phone
    found.point(60, 430)
    found.wait(lambda: found.all("#s3-stage .s3-box.s3-unlike"), "the negative box")
    found.click("#s3-clear")
    found.wait(lambda: not found.all("#s3-stage .s3-box") and found.outlines() == before, "no boxes")


@needs_browser
def test_everything_works_with_keys(found: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    number = min(found.outlines())
    group = found.one(f'#s3-stage [data-number="{number}"]')
    found.run("arguments[0].focus()", group)
    assert found.wait(lambda: found.text("#s3-stage .s3-tip"), "the name of what has the focus")
    group.send_keys(Keys.ENTER)
    selected = f'#s3-stage [data-number="{number}"][aria-pressed="true"]'
    found.wait(lambda: found.all(selected), "the selection")
    button = found.one("#s3-stage [data-tool=like]")
    found.run("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    svg = found.one("#s3-stage svg")
    found.run("arguments[0].focus()", svg)
    svg.send_keys(Keys.ARROW_LEFT, Keys.ENTER, *[Keys.ARROW_RIGHT] * 5, *[Keys.ARROW_DOWN] * 5)
    assert len(found.all("#s3-stage .s3-cross")) == 4  # the corner and the cross, each with its dark rim
    svg.send_keys(Keys.ENTER)
    found.wait(lambda: found.all("#s3-stage .s3-box.s3-like"), "the box")
    unnamed = """return [...document.querySelectorAll('button, input, textarea, img, svg[role]')].filter((one) =>
        one.offsetParent !== null && !(one.getAttribute('aria-label') || one.title || one.textContent.trim() || one.alt
        || one.labels?.length)).map((one) => one.outerHTML.slice(0, 200))"""
    assert found.run(unnamed) == []


@needs_browser
def test_the_threshold_acts_at_once(found: Page) -> None:
    before = found.outlines()
    found.set_threshold(0.93)
    found.wait(lambda: len(found.outlines()) < len(before), "fewer objects")
    assert all(before[number] == outline for number, outline in found.outlines().items())  # and the same numbers
    found.set_threshold(0.2)
    found.wait(lambda: len(found.outlines()) >= len(before), "all objects again")
    assert all(found.outlines()[number] == outline for number, outline in before.items())
    found.set_threshold(0.99)
    found.wait(lambda: not found.outlines() and "Nothing found" in found.text("#s3-counts"), "none, and why")
    assert "below the threshold 0.99" in found.text("#s3-counts") and "presence" in found.text("#s3-counts")


@needs_browser
def test_downloads_open(found: Page, downloads: Path) -> None:
    numbers = sorted(found.outlines())
    for name, file in {
        "coco": "annotations.json",
        "masks": "masks.zip",
        "cutouts": "cutouts.zip",
        "picture": "annotated.png",
    }.items():
        found.click(f"#s3-get-{name}")
        wait_for((downloads / file).is_file, f"the download of {file}")
    dataset = json.loads((downloads / "annotations.json").read_text())
    assert {one["name"] for one in dataset["categories"]} <= set(SAMPLE_PHRASES)
    with zipfile.ZipFile(downloads / "masks.zip") as archive:
        assert sorted(int(name.split("_")[0]) for name in archive.namelist()) == numbers
        areas = [(np.asarray(Image.open(io.BytesIO(archive.read(name)))) > 0).sum() for name in archive.namelist()]
    assert areas == [one["area"] for one in dataset["annotations"]]
    assert [rle_decode(one["segmentation"]).sum() for one in dataset["annotations"]] == areas
    with zipfile.ZipFile(downloads / "cutouts.zip") as archive:
        assert archive.testzip() is None and len(archive.namelist()) == len(numbers)
        assert Image.open(io.BytesIO(archive.read(archive.namelist()[0]))).mode == "RGBA"
    with Image.open(downloads / "annotated.png") as drawn:
        assert drawn.size == (448, 448)


@needs_browser
def test_what_goes_wrong_is_said_and_the_page_goes_on(page: Page, folder: Path) -> None:
    page.click("#s3-find")
    page.wait(lambda: "no picture yet" in page.text("#s3-image-status"), "a word on the picture")
    page.upload("#s3-picture", folder / "broken.png")
    page.wait(lambda: "“broken.png” cannot be read as a picture" in page.text("#s3-image-status"), "a word on the file")
    page.open()
    page.upload("#s3-picture", folder / "large.jpg")
    page.wait(lambda: "30 megapixels" in page.text("#s3-image-status"), "a word on the size")
    page.find("   ")
    page.wait(lambda: "Nothing to find yet" in page.text("#s3-image-status"), "a word on the phrase")
    page.find("dog")
    page.wait(lambda: "Nothing found for “dog”" in page.text("#s3-counts"), "a word on what is not there")
    page.click("#s3-other")
    page.wait(lambda: page.one("#s3-examples").is_displayed(), "the examples")
    page.click("#s3-examples button")
    assert page.wait(page.outlines, "objects")


@needs_browser
def test_a_restarted_server_says_so(found: Page, server: Server) -> None:
    server.restart()
    found.click("#s3-find")
    found.wait(lambda: "upload it again" in found.text("#s3-image-status"), "a word on the restart")
    found.wait(lambda: found.one("#s3-examples").is_displayed(), "the examples")
    found.click("#s3-examples button")
    assert found.wait(found.outlines, "objects")


@needs_browser
def test_two_users_are_apart_and_a_left_one_is_freed(found: Page, server: Server) -> None:
    before = found.outlines()
    known = set(server.visitors())
    driver = found.driver
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    found.open()
    found.all("#s3-examples button")[1].click()
    found.wait(found.outlines, "objects of the second user")
    assert found.outlines() != before
    (second,) = set(server.visitors()) - known
    driver.close()
    driver.switch_to.window(first)
    found.click("#s3-find")
    found.wait(lambda: found.outlines() == before, "the first user's objects")
    wait_for(lambda: not second.exists(), "the second user to be forgotten")


@needs_browser
def test_phones_and_the_dark(found: Page) -> None:
    try:
        found.as_phone()
        assert not found.is_too_wide()
        for name in ("Compare", "Video", "Image"):
            found.tab(name)
            assert not found.is_too_wide(), name
        colour = "return getComputedStyle(document.querySelector('gradio-app')).backgroundColor"
        light = found.run(colour)
        found.open()  # also as it begins
        assert not found.is_too_wide()
        found.click("#s3-dark")
        found.wait(lambda: found.run(colour) != light, "the dark")
    finally:
        found.as_desktop()


@needs_browser
def test_models_are_chosen_and_refused_in_words(found: Page) -> None:
    from selenium.webdriver.common.keys import Keys

    assert "Runs on: cpu" in found.text("#s3-device")
    for name, words in (("/nowhere/at/all", "there is no directory"), ("facebook/sam3", "SAM License")):
        found.type("#s3-model input", name)
        found.one("#s3-model input").send_keys(Keys.ENTER)
        found.wait(lambda words=words: words in found.text("#s3-model-status"), words)
    assert "“bundled” stays in use" in found.text("#s3-model-status")
    assert found.one("#s3-model input").get_attribute("value") == "bundled"
    found.find("red shape")
    assert found.wait(found.outlines, "objects of the model before")


@needs_browser
def test_compare_shows_presence_with_and_without_boxes(page: Page) -> None:
    page.tab("Compare")
    page.click("#s3-compare-example")
    page.wait(lambda: page.outlines("#s3-with"), "both answers")
    assert page.outlines("#s3-without")
    assert len(page.all("#s3-with .s3-box")) == 1 and not page.all("#s3-without .s3-box")
    first = float(page.one("#s3-without-why meter").get_attribute("value"))
    assert 0 <= first <= 1 and page.all("#s3-with-why meter")
    page.type("#s3-compare-phrase textarea, #s3-compare-phrase input", "dog")
    page.click("#s3-compare")
    page.wait(lambda: "“dog”" in page.text("#s3-without-why"), "another phrase")
    assert float(page.one("#s3-without-why meter").get_attribute("value")) < first


# ---- videos ----


@needs_browser
def test_a_video_gives_a_playable_one(page: Page, folder: Path) -> None:
    page.tab("Video")
    page.upload("#s3-video", folder / "broken.mp4")
    page.wait(lambda: "“broken.mp4” cannot be read as a video" in page.text("#s3-video-status"), "a word on the file")
    page.open().tab("Video")
    page.upload("#s3-video", folder / "short.mp4")
    page.wait(lambda: page.all("#s3-video-stage svg image"), "the first frame")
    page.click("#s3-follow")
    page.wait(lambda: "Nothing to follow yet" in page.text("#s3-video-status"), "a word on the phrase")
    page.tool("add", "#s3-video-stage")
    page.point(100, 100, "#s3-video-stage")
    page.wait(lambda: page.all("#s3-video-stage .s3-click.s3-like"), "the click")
    page.tool("like", "#s3-video-stage")
    page.drag((60, 60, 140, 150), "#s3-video-stage")
    page.wait(lambda: page.all("#s3-video-stage .s3-box"), "the box")
    page.type("#s3-video-phrases textarea", "red shape")
    page.click("#s3-follow")
    page.wait(lambda: page.all("#s3-progress .s3-progress"), "progress")
    page.wait(lambda: "Done: 6 frames" in page.text("#s3-video-status"), "the end")
    state = "const v = document.querySelector('#s3-annotated video'); return v && v.readyState >= 2 && v.duration"
    assert page.wait(lambda: page.run(state), "a video that plays") == pytest.approx(6 / 8, abs=0.15)
    assert page.all("#s3-timeline svg rect") and len(page.all("#s3-video-files a[download]")) == 2


@needs_browser
def test_a_stopped_video_keeps_what_is_done(page: Page) -> None:
    page.tab("Video")
    page.click("#s3-video-example")
    page.wait(lambda: page.all("#s3-video-stage svg image"), "the first frame")
    page.click("#s3-follow")
    page.wait(lambda: page.all("#s3-progress .s3-progress"), "progress")
    page.click("#s3-stop")
    told = page.wait(lambda: "Stopped after" in page.text("#s3-video-status") and page.text("#s3-video-status"), "it")
    assert "of 24 frames; what was found until there is kept" in told
    page.wait(lambda: page.all("#s3-annotated video"), "the part that was done")


# ---- programs ----


@pytest.fixture(scope="module")
def client(server: Server):  # type: ignore[no-untyped-def]
    import gradio_client

    return gradio_client.Client(server.url, verbose=False)


def test_the_api_segments(client, folder: Path) -> None:  # type: ignore[no-untyped-def]
    from gradio_client import handle_file

    given = {"picture": handle_file(str(folder / "picture.png")), "phrases": ", ".join(SAMPLE_PHRASES)}
    plain, drawn = client.predict(**given, threshold=0.35, boxes=[], api_name="/segment")
    assert plain["images"][0]["width"] == 448 and plain["annotations"]
    assert {one["name"] for one in plain["categories"]} <= set(SAMPLE_PHRASES)
    assert all(rle_decode(one["segmentation"]).sum() == one["area"] for one in plain["annotations"])
    with Image.open(drawn) as picture:
        assert picture.size == (448, 448)
    boxed, _ = client.predict(**given, threshold=0.35, boxes=[[180, 240, 300, 360, 1]], api_name="/segment")
    assert [one["score"] for one in boxed["annotations"]] != [one["score"] for one in plain["annotations"]]


def test_the_api_tracks(client, folder: Path) -> None:  # type: ignore[no-untyped-def]
    from gradio_client import handle_file

    video, tracks = client.predict(
        video=handle_file(str(folder / "short.mp4")), phrases="red shape", threshold=0.35, new_threshold=0.45,
        max_frames=4, api_name="/track",
    )  # fmt: skip
    with open_video(shutil.copy(video, folder / "tracked.mp4")) as frames:
        assert frames.num_frames == 4
    assert json.loads(Path(tracks).read_text())["videos"][0]["length"] == 4


def test_the_api_tells_errors(client, folder: Path) -> None:  # type: ignore[no-untyped-def]
    from gradio_client import handle_file
    from gradio_client.exceptions import AppError

    picture, broken = handle_file(str(folder / "picture.png")), handle_file(str(folder / "broken.png"))
    for given, message in (
        ({"picture": picture, "phrases": " "}, "Nothing to find yet"),
        ({"picture": broken, "phrases": "red shape"}, "cannot be read as a picture"),
        ({"picture": picture, "phrases": "red shape", "boxes": [[9, 9, 9, 9]]}, "covers no pixel"),
    ):
        with pytest.raises(AppError, match=message):
            client.predict(**{"threshold": 0.5, "boxes": []} | given, api_name="/segment")


def test_the_api_has_these_functions_alone(client) -> None:  # type: ignore[no-untyped-def]
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert sorted(named) == ["/segment", "/track"]
