"""The logic of the web demo on a tiny random model: sessions of pictures, what is shown, what is taken away."""

import gc
import io
import json
import re
import weakref
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from sam3_hf import ConceptSegmentationPipeline, Sam3Detector, Sam3Model, Sam3Processor, tiny_config
from sam3_hf.data import concept_scene
from sam3_hf.demo import (
    BUNDLED,
    RELEASED,
    Engine,
    ExampleBox,
    ImageSession,
    ModelShelf,
    Prompts,
    Visitors,
    example_pictures,
    explain_error,
    model_note,
    open_picture,
    parse_phrases,
    settings_for,
)
from sam3_hf.demo.exports import annotated, coco, write_coco, write_cutouts, write_masks
from sam3_hf.demo.image_session import MAX_ANSWERS, MAX_STEPS
from sam3_hf.demo.outlines import mask_to_path
from sam3_hf.demo.pictures import MAX_PIXELS
from sam3_hf.demo.scene import counts_html, css_color, explain_answer, scene, table_html
from sam3_hf.visualization import instance_color

SIZE = 112
pytestmark = pytest.mark.usefixtures("one_thread")
SURE = 0.07  # a random model is sure of nothing: all its candidates score a little more than this


@pytest.fixture(scope="module")
def engine(tiny_checkpoint: str) -> Engine:
    return Engine(tiny_checkpoint, "cpu")


@pytest.fixture
def image() -> Image.Image:
    picture = concept_scene(7, "val", image_size=128).image
    assert isinstance(picture, np.ndarray)
    return Image.fromarray(picture)


@pytest.fixture
def session(engine: Engine, image: Image.Image) -> ImageSession:
    return ImageSession(engine, image)


@pytest.fixture
def calls(engine: Engine) -> Iterator[SimpleNamespace]:
    """How often the vision tower, the detector's decoder and the tracker's have run."""
    counts = SimpleNamespace(vision=0, decoder=0, clicks=0)
    parts = {
        "vision": engine.model.detector_model.vision_encoder.backbone,
        "decoder": engine.model.detector_model.detr_decoder,
        "clicks": engine.model.tracker_model.prompt_encoder,
    }

    def count(name: str) -> None:
        setattr(counts, name, getattr(counts, name) + 1)

    hooks = [part.register_forward_hook(lambda *_, name=name: count(name)) for name, part in parts.items()]
    yield counts
    for hook in hooks:
        hook.remove()


def threshold_between(session: ImageSession) -> float:
    """A threshold that some candidates pass and others do not."""
    scores = sorted(one.score for answer in session.answers() for one in answer.candidates)
    assert len(scores) > 1
    return (scores[len(scores) // 2 - 1] + scores[len(scores) // 2]) / 2


# ---- a session ----


def test_a_picture_is_encoded_once(session: ImageSession, calls: SimpleNamespace) -> None:
    session.encode()
    session.find(["square"])
    session.find(["square", "red circle"])
    session.add_box((10, 10, 60, 60))
    number = session.objects(SURE)[0].number
    session.refine(number, 30, 30)
    session.refine(number, 40, 40, False)
    assert calls.vision == 1
    assert calls.decoder == 3  # "square"; "red circle" alone, for "square" is known; both with the box


def test_threshold_and_undo_run_no_model(session: ImageSession, calls: SimpleNamespace) -> None:
    session.find(["square", "dog"])
    everything = session.objects(0.0)
    middle = threshold_between(session)
    session.add_box((10, 10, 60, 60))
    session.refine(session.objects(SURE)[0].number, 30, 30)
    before = vars(calls).copy()
    assert session.undo() and session.undo()
    fewer = session.objects(middle)
    assert 0 < len(fewer) < len(everything)
    assert {one.number for one in fewer} <= {one.number for one in everything}
    assert [one.score for one in session.objects(0.0)] == [one.score for one in everything]
    assert vars(calls) == before


@pytest.mark.parametrize("threshold", [0.05, 0.08, 0.3])
def test_what_is_shown_is_what_the_pipeline_finds(
    engine: Engine, session: ImageSession, image: Image.Image, threshold: float
) -> None:
    session.find(["square", "dog"])
    session.add_box((10, 10, 60, 60))
    session.add_box((64, 70, 120, 100), is_positive=False)
    pipe = ConceptSegmentationPipeline(engine.model, engine.processor, device="cpu")
    found = pipe(
        image, text=["square", "dog"], boxes=[[10, 10, 60, 60], [64, 70, 120, 100]], box_labels=[1, 0],
        threshold=threshold, nms_threshold=engine.nms_threshold, mask_format="bool",
    )  # fmt: skip
    shown = sorted(session.objects(threshold), key=lambda one: -one.score)
    assert [one.score for one in shown] == pytest.approx([one["score"] for one in found], abs=1e-6)
    for one, other in zip(shown, found, strict=True):
        assert one.label == other["label"]
        assert list(one.box) == pytest.approx(list(other["box"].values()), abs=0.51)  # the pipeline's are rounded
        assert (one.mask != other["mask"]).mean() < 1e-3  # logits are kept in half precision


def test_a_click_changes_one_object(session: ImageSession) -> None:
    session.find(["square"])
    before = {one.number: one for one in session.objects(SURE)}
    assert len(before) > 1
    number = next(iter(before))
    session.refine(number, 100, 20)
    after = {one.number: one for one in session.objects(SURE)}
    assert after.keys() == before.keys()
    for key, one in after.items():
        assert one.is_refined == (key == number)
        assert (one.mask == before[key].mask).all() == (key != number)
    session.undo()
    assert all((one.mask == before[one.number].mask).all() for one in session.objects(SURE))


def test_boxes_count_for_their_phrase(session: ImageSession) -> None:
    session.find(["square", "dog"])
    alone = session.answers()
    session.add_box((10, 10, 60, 60), phrase="dog")
    with_box = session.answers()
    assert with_box[0] is alone[0]
    assert with_box[1] is not alone[1]
    assert session.prompts.questions() == [("square", ()), ("dog", (ExampleBox((10, 10, 60, 60)),))]
    session.find(["square"])  # the box goes with its phrase
    assert session.prompts.boxes == ()


def test_boxes_alone_are_a_question(session: ImageSession) -> None:
    session.add_box((60, 60, 10, 10))  # any two corners
    assert session.prompts.boxes[0].box == (10, 10, 60, 60)
    assert {one.label for one in session.objects(SURE)} == {"visual"}
    session.clear_boxes()
    assert session.objects(SURE) == []
    assert Prompts().questions() == []


def test_an_object_keeps_its_number_when_asked_anew(session: ImageSession) -> None:
    session.find(["square"])
    before = {one.number: one for one in session.objects(SURE)}
    session.find(["dog"])
    others = {one.number for one in session.objects(SURE)}
    assert others.isdisjoint(before)  # another phrase, other objects
    session.find(["square"])
    assert {one.number for one in session.objects(SURE)} == before.keys()
    session.add_box((0, 0, 127, 127))
    after = [one for one in session.objects(SURE) if one.number in before]
    for one in after:
        union = (one.mask | before[one.number].mask).sum()
        assert (one.mask & before[one.number].mask).sum() > 0.4 * union


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda s: s.find([]), "Nothing to find yet"),
        (lambda s: s.add_box((5, 5, 5, 90)), "covers no pixel"),
        (lambda s: s.add_box((200, 5, 300, 90)), "covers no pixel"),
        (lambda s: s.add_box((1, 2, 3)), "expected four"),
        (lambda s: s.add_box((5, 5, 50, 90), phrase="cat"), "'cat' is not among"),
        (lambda s: s.refine(99, 5, 5), "no object 99"),
        (lambda s: s.refine(1, 5, 500), "outside the picture, which is 128 x 128"),
    ],
)
def test_wrong_steps_say_why_and_change_nothing(session: ImageSession, act: object, message: str) -> None:
    session.find(["square"])
    session.objects(SURE)
    before, could_undo = session.prompts, session.can_undo
    if message.startswith("Nothing"):
        session = ImageSession(session.engine, session.image)
        before, could_undo = session.prompts, False
    with pytest.raises(ValueError, match=message):
        act(session)  # type: ignore[operator]
    assert session.prompts == before and session.can_undo == could_undo


def test_a_detector_alone_takes_no_clicks(tmp_path: Path, image: Image.Image) -> None:
    torch.manual_seed(0)
    Sam3Detector(tiny_config(SIZE).detector_config).save_pretrained(tmp_path)
    Sam3Processor(size=SIZE).save_pretrained(tmp_path)
    session = ImageSession(Engine(str(tmp_path), "cpu"), image)
    session.find(["square"])
    number = session.objects(0.0)[0].number
    with pytest.raises(ValueError, match="has no tracker"):
        session.refine(number, 5, 5)


def test_another_model_starts_anew_on_the_same_prompts(
    session: ImageSession, tiny_checkpoint: str, calls: SimpleNamespace
) -> None:
    session.find(["square"])
    session.refine(session.objects(SURE)[0].number, 30, 30)
    session.use(session.engine)
    assert session.can_undo
    session.use(Engine(tiny_checkpoint, "cpu"))
    assert not session.is_encoded and not session.can_undo and not session.prompts.clicks
    session.find(session.prompts.phrases)
    assert session.objects(SURE)
    assert calls.vision == 1  # the first model was not asked again


def test_a_session_keeps_a_bounded_number_of_answers(session: ImageSession) -> None:
    for start in range(0, 3 * (MAX_STEPS + 2), 3):
        session.find([f"thing {number}" for number in range(start, start + 3)])
        session.objects(SURE)
    assert len(session._answers) <= MAX_ANSWERS
    assert len(session._past) == MAX_STEPS
    assert len(session._shown) <= 12 * MAX_ANSWERS
    assert all(session.undo() for _ in range(MAX_STEPS)) and not session.undo()
    assert session.objects(SURE)


def test_fifty_requests_leave_memory_flat(engine: Engine, image: Image.Image) -> None:
    visitors, process = Visitors(most_pictures=2), psutil.Process()

    def request(number: int) -> None:
        visitor = visitors.of(f"user {number % 5}")
        session = ImageSession(engine, image.resize((120, 90)))
        visitor.take_image(session)
        session.find([f"thing {number}", "square"])
        session.add_box((10, 10, 60, 60))
        session.refine(session.objects(SURE)[0].number, 30, 30)
        table_html(session.objects(SURE))

    for number in range(8):
        request(number)
    gc.collect()
    before = process.memory_info().rss
    for number in range(50):
        request(number)
    gc.collect()
    assert process.memory_info().rss - before < 12e6  # one session's features and masks are 3 MB
    visitors.close()


def test_a_wrapper_goes_around_every_use_of_the_model(tiny_checkpoint: str, image: Image.Image) -> None:
    ran = []

    def lent(function):  # type: ignore[no-untyped-def]
        def wrapped(*arguments):  # type: ignore[no-untyped-def]
            ran.append(function.__name__)
            return function(*arguments)

        return wrapped

    engine = Engine(tiny_checkpoint, "cpu", wrapper=lent)
    session = ImageSession(engine, image)
    session.find(["square"])
    session.refine(session.objects(SURE)[0].number, 30, 30)
    assert ran == ["_encode", "_ask", "_point"]
    features = session.encode()
    assert features.maps is not None and all(one.device.type == "cpu" for one in features.maps)


# ---- users ----


def test_users_are_apart_and_freed_when_they_leave(engine: Engine, image: Image.Image) -> None:
    visitors = Visitors()
    one, other = visitors.of("one"), visitors.of("other")
    one.take_image(ImageSession(engine, image))
    other.take_image(ImageSession(engine, image))
    assert one.image is not None and other.image is not None
    one.image.find(["square"])
    other.image.find(["dog"])
    assert visitors.of("one").image.prompts.phrases == ("square",)  # type: ignore[union-attr]
    assert one.folder != other.folder
    gone, folder = weakref.ref(one.image), one.folder
    visitors.leave("one")
    del one
    gc.collect()
    assert gone() is None and not folder.exists()
    assert len(visitors) == 1 and visitors.of("one").image is None
    visitors.close()
    assert len(visitors) == 0 and not other.folder.exists()


def test_users_who_stay_away_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    visitors = Visitors(idle_seconds=60)
    now = 0.0
    monkeypatch.setattr("sam3_hf.demo.visitors.time.monotonic", lambda: now)
    first = visitors.of("first")
    now = 50.0
    visitors.of("second")
    now = 70.0
    visitors.of("third")
    assert len(visitors) == 2 and not first.folder.exists()
    visitors.close()


def test_only_the_latest_users_keep_features(engine: Engine, image: Image.Image) -> None:
    visitors = Visitors(most_pictures=1)
    for key in ("one", "two"):
        visitors.of(key).take_image(ImageSession(engine, image))
        visitors.of(key).image.find(["square"])  # type: ignore[union-attr]
    second, first = visitors.of("two"), visitors.of("one")
    assert first.image is not None and second.image is not None
    assert second.image.is_encoded and not first.image.is_encoded
    first.image.find(["dog"])  # they are made again
    assert first.image.is_encoded
    visitors.close()


# ---- models ----


def test_models_are_opened_once_and_few_are_held(tiny_checkpoint: str, tmp_path: Path) -> None:
    shelf = ModelShelf(tiny_checkpoint, "cpu", capacity=1)
    first = shelf.open()
    assert shelf.open(tiny_checkpoint) is first
    torch.manual_seed(1)
    Sam3Model(tiny_config(SIZE)).save_pretrained(tmp_path)
    assert shelf.open(str(tmp_path)) is not first
    assert shelf.open(tiny_checkpoint) is not first
    assert shelf.choices == [tiny_checkpoint, BUNDLED, RELEASED]


@pytest.mark.parametrize(
    ("name", "any_name", "message"),
    [
        ("  ", True, "No model is named"),
        ("/nowhere/at/all", True, "there is no directory '/nowhere/at/all'"),
        ("/somewhere/else", False, "offers bundled, facebook/sam3 only"),
        (RELEASED, True, "facebook/sam3"),
    ],
)
def test_models_that_cannot_be_opened_say_what_to_do(name: str, any_name: bool, message: str) -> None:
    with pytest.raises((OSError, ValueError), match=message):
        ModelShelf(device="cpu", any_name=any_name).open(name)


def test_notes_and_settings() -> None:
    assert "hf auth login" in model_note(RELEASED) and "SAM License" in model_note(RELEASED)
    assert "drawn shapes" in model_note(BUNDLED)
    assert settings_for(RELEASED).threshold == 0.5
    assert settings_for(BUNDLED).threshold <= 0.5


# ---- pictures and messages ----


def test_large_pictures_are_made_smaller_and_it_is_said(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    Image.new("RGB", (6000, 5000), "red").save(path)
    image, message = open_picture(path)
    assert image.width * image.height <= MAX_PIXELS
    assert image.width / image.height == pytest.approx(1.2, rel=1e-3)
    assert message is not None and "30 megapixels" in message and str(image.width) in message
    assert open_picture(Image.new("RGB", (50, 40)))[1] is None


def test_files_that_are_no_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(ValueError, match=r"“notes.png” cannot be read as a picture"):
        open_picture(tmp_path / "notes.png")
    with pytest.raises(FileNotFoundError, match=r"gone.png"):
        open_picture(tmp_path / "gone.png")


def test_examples_show_what_their_phrases_name() -> None:
    examples = example_pictures()
    assert len(examples) >= 3
    from sam3_hf.demo.pictures import _SCENES, _SIDE

    for seed, example in zip(_SCENES, examples, strict=True):
        truth = concept_scene(seed, "val", image_size=_SIDE, max_objects=8)
        assert example.phrases and set(example.phrases) <= set(truth.present())


def test_phrases_are_cut_at_commas_and_lines() -> None:
    assert parse_phrases(" red  circle, dog\n dog ;cat,,") == ["red circle", "dog", "cat"]
    assert parse_phrases("") == parse_phrases(None) == []
    with pytest.raises(ValueError, match="17 phrases"):
        parse_phrases(",".join(map(str, range(17))))


def test_errors_are_told_in_words() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58)
    assert "not enough memory" in str(explain_error(caught.value))
    assert "not enough memory" in str(explain_error(torch.OutOfMemoryError("CUDA out of memory")))
    assert "not enough memory" in str(explain_error(MemoryError()))
    assert explain_error(ValueError("give a box")) == "give a box"
    assert explain_error(RuntimeError("shape mismatch")) is None
    assert explain_error(KeyError("x")) is None


# ---- what is shown and taken away ----


def even_odd(path: str, height: int, width: int) -> np.ndarray:
    """The mask that a path of straight lines fills, told by the pixels' centres."""
    mask = np.zeros((height, width), dtype=bool)
    for outline in re.findall(r"M([^Z]*)Z", path):
        points = np.array([[float(value) for value in pair.split()] for pair in outline.split("L")])
        for (x0, y0), (x1, y1) in zip(points, np.roll(points, -1, axis=0), strict=True):
            for row in range(height):
                if (y0 <= row + 0.5) != (y1 <= row + 0.5):
                    at = x0 + (row + 0.5 - y0) / (y1 - y0) * (x1 - x0)
                    mask[row] ^= np.arange(width) + 0.5 > at
    return mask


def test_outlines_follow_masks_exactly() -> None:
    rng = np.random.default_rng(0)
    for density in (0.2, 0.5, 0.8):
        for _ in range(5):
            mask = rng.random((9, 13)) < density
            assert (even_odd(mask_to_path(mask), 9, 13) == mask).all()
            assert (even_odd(mask_to_path(mask, scale=2.0), 18, 26) == mask.repeat(2, 0).repeat(2, 1)).all()
    assert mask_to_path(np.zeros((4, 4), dtype=bool)) == ""
    assert mask_to_path(np.ones((2, 3), dtype=bool)).count("L") == 3


def test_blunted_outlines_stay_within_a_pixel() -> None:
    y, x = np.mgrid[:40, :40]
    mask = (x - 20) ** 2 + (y - 18) ** 2 < 150
    drawn = even_odd(mask_to_path(mask, cut=1.0), 40, 40)
    inner = (x - 20) ** 2 + (y - 18) ** 2 < 11**2
    outer = (x - 20) ** 2 + (y - 18) ** 2 < 13.5**2
    assert (drawn >= inner).all() and (drawn <= outer).all()


def test_the_scene_says_everything_that_is_drawn(session: ImageSession) -> None:
    session.find(["square <b>"])
    session.add_box((10, 10, 60, 60), is_positive=False)
    number = session.objects(SURE)[0].number
    session.refine(number, 100, 20, True)
    objects = session.objects(SURE)
    data = json.loads(json.dumps(scene(session, objects)))
    assert (data["width"], data["height"]) == (128, 128)
    assert data["boxes"] == [{"box": [10, 10, 60, 60], "positive": False, "phrase": None}]
    assert data["clicks"] == [{"x": 100, "y": 20, "positive": True, "number": number}]
    assert [one["number"] for one in data["objects"]] == [one.number for one in objects]
    assert data["objects"][0]["refined"] is True
    assert data["objects"][0]["color"] == css_color(number) == "#{:02x}{:02x}{:02x}".format(*instance_color(number))
    table = table_html(objects)
    assert table.count("<tr>") == len(objects) + 1 and "square &lt;b&gt;" in table and "refined" in table
    assert f"<b>{len(objects)}</b> square &lt;b&gt;" in counts_html(session.answers(), objects, SURE)


def test_why_nothing_was_found_is_said(session: ImageSession) -> None:
    session.find(["square"])
    (answer,) = session.answers()
    assert "below the threshold 0.95" in explain_answer(answer, 0.95)
    assert f"presence {answer.presence:.2f}" in explain_answer(answer, 0.95)
    assert f"Found {len(answer.above(0.0))} objects" in explain_answer(answer, 0.0)
    assert "Nothing found" in counts_html([answer], [], 0.95)
    assert counts_html([], [], 0.5) == "" and table_html([]) == ""


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools' own
def test_downloads_hold_the_masks_that_are_shown(session: ImageSession, tmp_path: Path) -> None:
    pycocotools = pytest.importorskip("pycocotools.coco")
    session.find(["square", "a/b"])
    objects = session.objects(SURE)
    path = write_coco(tmp_path / "annotations.json", objects, session.size)
    dataset = pycocotools.COCO(str(path))
    annotations = dataset.loadAnns(dataset.getAnnIds())
    for one, annotation in zip(objects, annotations, strict=True):
        assert (dataset.annToMask(annotation).astype(bool) == one.mask).all()
        assert annotation["area"] == one.area and annotation["score"] == pytest.approx(one.score, abs=1e-6)
        assert dataset.cats[annotation["category_id"]]["name"] == one.label
    with zipfile.ZipFile(write_masks(tmp_path / "masks.zip", objects)) as archive:
        assert len(set(archive.namelist())) == len(objects)
        for name, one in zip(archive.namelist(), objects, strict=True):
            assert (np.asarray(Image.open(io.BytesIO(archive.read(name)))) == one.mask * 255).all()
    with zipfile.ZipFile(write_cutouts(tmp_path / "cutouts.zip", objects, session.image)) as archive:
        for name, one in zip(archive.namelist(), objects, strict=True):
            assert "/" not in name
            assert (np.asarray(Image.open(io.BytesIO(archive.read(name))))[..., 3] > 0).sum() == one.area
    assert annotated(session.image, objects).size == session.image.size
    assert sorted(file.name for file in tmp_path.iterdir()) == ["annotations.json", "cutouts.zip", "masks.zip"]
    assert coco([], (4, 5))["annotations"] == []
    with pytest.raises(ValueError, match="nothing to download"):
        write_masks(tmp_path / "none.zip", [])
