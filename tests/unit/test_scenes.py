"""Concept scenes and clips: the same everywhere, masks exact, phrases true, unseen compositions never leaked."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sam3_hf.data import (
    ConceptExample,
    SceneDataset,
    concept_clip,
    concept_scene,
    parse_phrase,
    seen_phrases,
    unseen_phrases,
)
from sam3_hf.data.drawing import (
    SUPERSAMPLING,
    colour_distance,
    draw_sprite,
    fill,
    named_colour,
    paint,
    seeded,
    typical_colour,
)
from sam3_hf.data.scenes import DIAMETERS, MIN_AREA, SPLITS, compose, name_objects, plan_kinds
from sam3_hf.data.vocabulary import (
    ANY_SHAPE,
    COLOURS,
    SHAPES,
    SIZES,
    TEXTURES,
    UNSEEN_COLOURS,
    UNSEEN_TEXTURES,
    Concept,
    ObjectKind,
    is_unseen,
    phrases_of,
    swapped_phrases,
)

# What was drawn where this was written (the same with numpy 1.26 and 2.4, with and without vector instructions).
# A change of the generator must change it knowingly: scores on concept scenes are no longer comparable then.
GOLDEN = {
    "phrase": "cross",
    "masks": "8bfc81a8082dfffa",
    "image": "49bbec5e5a0d634d",
    "clip masks": "20d7b6ebbe6614e4",
    "clip frames": "612b8057dc2ea4ed",
}

# Every scene of these seeds is looked at, at a size that keeps it fast.
SEEDS = range(300)
SIZE = 96


@pytest.fixture(scope="module", params=SPLITS)
def scenes(request: pytest.FixtureRequest) -> tuple[str, list[ConceptExample]]:
    """A split's name and some hundred scenes of it."""
    return request.param, [concept_scene(seed, request.param, SIZE) for seed in SEEDS]


def _digest(*arrays: np.ndarray) -> str:
    joined = hashlib.sha256()
    for array in arrays:
        joined.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
    return joined.hexdigest()[:16]


# --- words -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("concept", "phrase"),
    [
        (Concept("circle"), "circle"),
        (Concept("circle", colour="red"), "red circle"),
        (Concept("square", texture="striped"), "striped square"),
        (Concept("circle", colour="red", size="large"), "large red circle"),
        (Concept("star", colour="green", texture="striped"), "green striped star"),
        (Concept("ring", colour="red", texture="plain"), "plain red ring"),
        (Concept(ANY_SHAPE, texture="dotted", size="small"), "small dotted shape"),
    ],
)
def test_phrases_are_in_english_order_and_parse_back(concept: Concept, phrase: str) -> None:
    assert concept.phrase == phrase
    assert parse_phrase(phrase) == concept


def test_the_phrases_of_a_kind_are_exactly_those_that_match_it() -> None:
    everything = [*seen_phrases(), *unseen_phrases()]
    assert len(everything) == len(set(everything))
    for kind in (ObjectKind("star", "blue", "dotted", "small"), ObjectKind("ring", "red", "plain", "medium")):
        matching = {phrase for phrase in everything if parse_phrase(phrase).matches(kind)}
        assert set(phrases_of(kind)) == matching
        assert not any(word in phrase for phrase in matching for word in SIZES if kind.size != word)


def test_swapped_phrases_differ_in_one_word() -> None:
    swaps = swapped_phrases("large red circle")
    assert "small red circle" in swaps and "large blue circle" in swaps and "large red star" in swaps
    assert len(swaps) == len(SIZES) - 1 + len(COLOURS) - 1 + len(SHAPES) - 1
    assert all(
        sum(a != b for a, b in zip(swap.split(), ["large", "red", "circle"], strict=True)) == 1 for swap in swaps
    )
    assert all(swap.endswith(ANY_SHAPE) for swap in swapped_phrases(f"red {ANY_SHAPE}"))


def test_every_word_is_seen_and_about_fifteen_percent_of_the_compositions_are_not() -> None:
    words = {word for phrase in seen_phrases() for word in phrase.split()}
    assert words == {*SHAPES, *COLOURS, *TEXTURES, *SIZES, ANY_SHAPE}
    for shape in SHAPES:  # every shape is trained in most colours, and in each texture or all but one
        assert len(UNSEEN_COLOURS.get(shape, ())) <= 3 and len(UNSEEN_TEXTURES.get(shape, ())) <= 1
    assert "plain" not in {texture for textures in UNSEEN_TEXTURES.values() for texture in textures}
    held_out = sum(map(len, UNSEEN_COLOURS.values())) + sum(map(len, UNSEEN_TEXTURES.values()))
    assert 0.12 < held_out / (len(SHAPES) * (len(COLOURS) + len(TEXTURES) - 1)) < 0.18


def test_an_unknown_phrase_is_an_error_that_quotes_it() -> None:
    with pytest.raises(ValueError, match="'mauve circle'"):
        parse_phrase("mauve circle")


# --- drawing ---------------------------------------------------------------------------------------------------------


def test_filling_is_exact_and_leaves_holes_open() -> None:
    square = np.array([(2, 1), (6, 1), (6, 4), (2, 4)], dtype=float)
    hole = np.array([(3, 2), (5, 2), (5, 3), (3, 3)], dtype=float)
    starts = np.concatenate([square, hole])
    ends = np.concatenate([np.roll(square, -1, axis=0), np.roll(hole, -1, axis=0)])
    expected = np.zeros((5, 8), dtype=np.uint8)
    expected[1:4, 2:6] = 1
    expected[2, 3:5] = 0
    np.testing.assert_array_equal(fill(starts, ends, 5, 8), expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_fits_its_box_and_its_mask_is_the_covered_half(shape: str) -> None:
    sprite = draw_sprite(shape, "plain", 40.0, 0.0, (50.0, 60.0))
    rows, columns = np.nonzero(sprite.mask)
    assert max(np.ptp(rows), np.ptp(columns)) + 1 == pytest.approx(40, abs=2)  # the very tip of a diamond is thin
    assert sprite.left + (columns.min() + columns.max() + 1) / 2 == pytest.approx(50, abs=1)
    assert sprite.top + (rows.min() + rows.max() + 1) / 2 == pytest.approx(60, abs=1)
    np.testing.assert_array_equal(sprite.mask, sprite.coverage >= SUPERSAMPLING**2 / 2)
    assert sprite.area == pytest.approx(sprite.coverage.sum() / SUPERSAMPLING**2, rel=0.05)


def test_the_area_of_a_circle_and_of_a_ring() -> None:
    circle = draw_sprite("circle", "plain", 60.0, 0.0, (0.3, 0.7))
    assert circle.coverage.sum() / SUPERSAMPLING**2 == pytest.approx(np.pi * 30**2, rel=0.005)
    ring = draw_sprite("ring", "plain", 60.0, 0.0, (0.0, 0.0))
    assert not ring.mask[30, 30]
    assert ring.area < 0.75 * circle.area


@pytest.mark.parametrize("texture", TEXTURES[1:])
def test_textures_have_two_tones_and_leave_the_mask_alone(texture: str) -> None:
    plain, sprite = (draw_sprite("heart", name, 48.0, 30.0, (40.0, 40.0)) for name in ("plain", texture))
    np.testing.assert_array_equal(sprite.mask, plain.mask)
    assert plain.second is None and sprite.second is not None
    assert (sprite.second <= sprite.coverage).all()
    assert 0.15 < sprite.second.sum() / sprite.coverage.sum() < 0.6


def test_colours_stay_apart_from_other_names() -> None:
    rng = seeded(1)
    drawn = {name: [named_colour(rng, name) for _ in range(60)] for name in COLOURS}
    for name in COLOURS:
        others = [colour for other in COLOURS if other != name for colour in drawn[other]]
        middle = tuple(np.mean(drawn[name], axis=0))
        nearest = min(colour_distance(middle, other) for other in others)
        assert nearest > max(colour_distance(middle, colour) for colour in drawn[name]), name


# --- scenes ----------------------------------------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_scene_and_another_seed_or_split_another() -> None:
    first, again = concept_scene(7), concept_scene(7)
    assert isinstance(first.image, np.ndarray) and isinstance(again.image, np.ndarray)
    assert first.image.tobytes() == again.image.tobytes()
    assert list(first.concepts.items()) == list(again.concepts.items())
    pictures = [concept_scene(8).image, concept_scene(7, "val").image, concept_scene(7, "unseen").image]
    assert all(not np.array_equal(first.image, picture) for picture in pictures)


def test_the_state_of_other_generators_changes_nothing() -> None:
    np.random.seed(0)
    state = np.random.get_state()[1].tobytes()  # type: ignore[union-attr,index]
    first = concept_scene(3)
    assert np.random.get_state()[1].tobytes() == state  # type: ignore[union-attr,index]
    np.random.seed(5)
    assert np.array_equal(np.asarray(first.image), np.asarray(concept_scene(3).image))


def test_scenes_and_clips_are_the_same_on_every_machine() -> None:
    """Digests of pictures and masks are those of `GOLDEN`."""
    scene = concept_scene(11, "val")
    assert list(scene.concepts)[:1] == [GOLDEN["phrase"]]
    assert _digest(np.stack(scene.masks or [])) == GOLDEN["masks"]  # type: ignore[arg-type]
    assert _digest(np.asarray(scene.image)) == GOLDEN["image"]
    clip = concept_clip(2, num_frames=8, image_size=96)
    assert _digest(clip.masks) == GOLDEN["clip masks"]
    assert _digest(clip.frames) == GOLDEN["clip frames"]


def test_scenes_are_complete_examples(scenes: tuple[str, list[ConceptExample]]) -> None:
    split, examples = scenes
    assert len({example.image_id for example in examples}) == len(examples)
    counts = [example.num_objects for example in examples]
    assert max(counts) <= 20 and max(counts) >= 15 and np.median(counts) <= 7
    assert (0 in counts) == (split != "unseen")
    for example in examples:
        image = np.asarray(example.image)
        assert image.shape == (SIZE, SIZE, 3) and image.dtype == np.uint8 and example.size == (SIZE, SIZE)
        assert example.masks is not None and len(example.masks) == example.num_objects
        assert example.boxes.shape == (example.num_objects, 4) and example.boxes.dtype == np.float32
        for indices in example.concepts.values():
            assert list(indices) == sorted(set(indices)) and all(0 <= i < example.num_objects for i in indices)


def _bool_masks(example: ConceptExample) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for mask, box in zip(example.masks or (), example.boxes, strict=True):
        assert isinstance(mask, np.ndarray)
        yield mask, box


def test_masks_are_disjoint_visible_and_tight_in_their_boxes(scenes: tuple[str, list[ConceptExample]]) -> None:
    for example in scenes[1]:
        taken = np.zeros((SIZE, SIZE), dtype=int)
        for mask, (left, top, right, bottom) in _bool_masks(example):
            assert mask.shape == (SIZE, SIZE) and mask.dtype == bool
            assert mask.sum() >= MIN_AREA
            taken += mask
            rows, columns = np.nonzero(mask)
            assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert taken.max(initial=0) <= 1


def test_masks_show_what_the_picture_shows() -> None:
    """Inside the mask of an object of one colour the picture has that colour: nearer to its name than to any other."""
    right = total = 0
    for seed in range(60):
        example = concept_scene(seed)
        assert example.masks is not None
        for colour in COLOURS:
            for index in example.concepts.get(f"plain {colour} {ANY_SHAPE}", ()):
                tone = tuple(np.median(np.asarray(example.image)[np.asarray(example.masks[index])], axis=0).tolist())
                nearest = min(COLOURS, key=lambda name: colour_distance(typical_colour(name), tone))
                right, total = right + (nearest == colour), total + 1
    assert total > 80 and right / total > 0.97


def test_a_mask_is_where_paint_covers_at_least_half_of_a_pixel() -> None:
    canvas = np.zeros((3, 64, 64), dtype=np.float32)
    sprite = draw_sprite("heart", "checkered", 50.0, 20.0, (50.0, 30.0))  # partly outside
    paint(canvas, sprite, (200.0, 100.0, 50.0), (200.0, 250.0, 50.0))
    mask = np.zeros((64, 64), dtype=bool)
    outer, inner = sprite.window(64)
    mask[outer] = sprite.mask[inner]
    np.testing.assert_array_equal(canvas[0] >= 100, mask)
    assert set(np.unique(canvas[1][canvas[0] == 200])) >= {100.0, 250.0}


def test_phrases_are_true_of_their_objects_and_of_no_other() -> None:
    for seed in range(60):
        for split in SPLITS:
            rng = seeded(seed)
            kinds = plan_kinds(rng, split, 20, COLOURS)
            named = name_objects(rng, kinds, split)
            for phrase, indices in named.items():
                concept = parse_phrase(phrase)
                assert indices == tuple(index for index, kind in enumerate(kinds) if concept.matches(kind))
            asked = unseen_phrases() if split == "unseen" else seen_phrases()
            for phrase in asked:  # nothing true is left out
                assert phrase in named or not any(parse_phrase(phrase).matches(kind) for kind in kinds)


def test_sizes_are_unambiguous() -> None:
    """What the pictures show agrees with the words: no small object is as long as the least medium one, and so on."""
    assert DIAMETERS["small"][1] < DIAMETERS["medium"][0] and DIAMETERS["medium"][1] < DIAMETERS["large"][0]
    for image_size in (64, 224):
        kinds = [ObjectKind("circle", "red", "plain", size) for size in DIAMETERS for _ in range(5)]
        placed, _ = compose(seeded(0), kinds, image_size, [(128.0, 128.0, 128.0)], rim=True)
        lengths = {size: [len(item.sprite.mask) for item in placed if item.kind.size == size] for size in DIAMETERS}
        assert max(lengths["small"]) < min(lengths["medium"]) and max(lengths["medium"]) < min(lengths["large"])


def test_no_object_is_hidden_too_far() -> None:
    for seed in range(60):
        rng = seeded(seed)
        placed, owners = compose(rng, plan_kinds(rng, "train", 20, COLOURS), 128, [(128.0, 128.0, 128.0)], rim=True)
        for index, item in enumerate(placed):
            visible = np.count_nonzero(owners == index + 1)
            assert visible == item.visible >= item.least >= 0.45 * item.sprite.area


def test_training_never_shows_or_names_an_unseen_composition(scenes: tuple[str, list[ConceptExample]]) -> None:
    split, examples = scenes
    if split == "unseen":
        return
    for example in examples:
        for phrase in [*example.concepts, *example.vocabulary]:
            assert not is_unseen(parse_phrase(phrase)), phrase
        # Each object has all of its names here, so an unseen composition would be known by its parts.
        for index in range(example.num_objects):
            own = [parse_phrase(phrase) for phrase, objects in example.concepts.items() if index in objects]
            [shape] = {concept.noun for concept in own} - {ANY_SHAPE}
            [colour] = {concept.colour for concept in own} - {None}
            [texture] = {concept.texture for concept in own} - {None}
            assert colour not in UNSEEN_COLOURS.get(shape, ()) and texture not in UNSEEN_TEXTURES.get(shape, ())


def test_all_words_are_learnt_and_all_unseen_compositions_asked(scenes: tuple[str, list[ConceptExample]]) -> None:
    split, examples = scenes
    present = [phrase for example in examples for phrase in example.present()]
    if split == "unseen":
        assert all(is_unseen(parse_phrase(phrase)) for phrase in present)
        assert all(example.present() for example in examples)
        pairs = {(word, shape) for shape, words in UNSEEN_COLOURS.items() for word in words}
        pairs |= {(word, shape) for shape, words in UNSEEN_TEXTURES.items() for word in words}
        shown = {(word, parse_phrase(phrase).noun) for phrase in present for word in phrase.split()}
        assert pairs <= shown
    else:
        assert {word for phrase in present for word in phrase.split()} == {
            *SHAPES, *COLOURS, *TEXTURES, *SIZES, ANY_SHAPE
        }  # fmt: skip


def test_negatives_are_one_word_from_a_true_phrase_and_name_nothing(scenes: tuple[str, list[ConceptExample]]) -> None:
    for example in scenes[1]:
        absent = [phrase for phrase, indices in example.concepts.items() if not indices]
        assert len(absent) == len(set(absent)) and len(absent) >= 4
        if example.present():
            near = {swap for phrase in example.present() for swap in swapped_phrases(phrase)}
            assert set(absent) <= near
        assert not set(example.present()) & set(example.absent())


def test_an_absent_phrase_of_the_unseen_split_is_absent_though_true_seen_phrases_are_not_named() -> None:
    kinds = [ObjectKind("star", "red", "plain", "small"), ObjectKind("star", "blue", "plain", "small")]
    for seed in range(20):
        named = name_objects(seeded(seed), kinds, "unseen")
        assert named["red star"] == (0,)
        assert "blue star" not in named and "star" not in named


# --- the dataset -----------------------------------------------------------------------------------------------------


def test_the_dataset_draws_each_scene_from_its_index() -> None:
    dataset = SceneDataset(5, "val", seed=3, image_size=64)
    assert len(dataset) == 5 and len(list(dataset)) == 5
    assert np.array_equal(np.asarray(dataset[4].image), np.asarray(dataset[-1].image))
    assert len({example.image_id for example in dataset}) == 5
    other = SceneDataset(5, "val", seed=4, image_size=64)
    assert {example.image_id for example in dataset}.isdisjoint(example.image_id for example in other)
    with pytest.raises(IndexError):
        dataset[5]


def test_workers_of_a_data_loader_give_the_same_scenes() -> None:
    from torch.utils.data import DataLoader

    dataset = SceneDataset(4, image_size=64)
    loader: DataLoader = DataLoader(dataset, batch_size=2, num_workers=1, collate_fn=list)  # type: ignore[arg-type]
    loaded = [example for batch in loader for example in batch]
    assert [example.image_id for example in loaded] == [example.image_id for example in dataset]
    for example, own in zip(loaded, dataset, strict=True):
        assert np.array_equal(example.image, np.asarray(own.image))


@pytest.mark.parametrize("image_size", [64, 100, 224])
@pytest.mark.parametrize("split", SPLITS)
def test_other_sizes_and_few_objects(image_size: int, split: str) -> None:
    for seed in range(20):
        example = concept_scene(seed, split, image_size, max_objects=2)
        assert example.size == (image_size, image_size) and example.num_objects <= 2
        assert split != "unseen" or example.present()


def test_no_objects_at_all() -> None:
    example = concept_scene(0, max_objects=0)
    assert example.num_objects == 0 and example.boxes.shape == (0, 4) and example.masks == []
    assert example.present() == [] and "circle" in example.absent()


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"seed": -1}, ValueError, "seed must be at least 0, got -1"),
        ({"seed": 1.5}, TypeError, "seed must be a whole number, got 1.5 of type float"),
        ({"seed": True}, TypeError, "seed must be a whole number"),
        ({"seed": 0, "split": "test"}, ValueError, "split must be one of"),
        ({"seed": 0, "image_size": 32}, ValueError, "image_size must be at least 64, got 32"),
        ({"seed": 0, "max_objects": 65}, ValueError, "max_objects must be from 0 to 64, got 65"),
        ({"seed": 0, "split": "unseen", "max_objects": 0}, ValueError, "max_objects must be from 1"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        concept_scene(**arguments)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_scenes": -1}, "num_scenes"),
        ({"num_scenes": 1, "split": "all"}, "split"),
        ({"num_scenes": 1, "seed": 2**32}, "seed"),
        ({"num_scenes": 1, "image_size": 8}, "image_size"),
    ],
)
def test_a_dataset_with_bad_arguments_is_never_made(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SceneDataset(**arguments)


# --- clips -----------------------------------------------------------------------------------------------------------


def _gaps(visible: np.ndarray) -> bool:
    """Whether an object is seen, then not, then again."""
    frames = np.flatnonzero(visible)
    return len(frames) > 0 and len(frames) < frames[-1] - frames[0] + 1


@pytest.mark.parametrize("split", SPLITS)
def test_clips_hide_an_object_completely_and_bring_it_back_under_its_number(split: str) -> None:
    enters = leaves = 0
    for seed in range(8):
        clip = concept_clip(seed, num_frames=16, image_size=SIZE, split=split)
        assert clip.frames.shape == (16, SIZE, SIZE, 3) and clip.frames.dtype == np.uint8
        assert clip.masks.shape == (16, clip.num_objects, SIZE, SIZE) and clip.masks.dtype == bool
        assert 2 <= clip.num_objects <= 6 and clip.num_frames == 16
        assert clip.masks.sum(axis=1).max() <= 1, "masks of one frame overlap"
        assert clip.visible.any(axis=0).all(), "an object is never seen"
        assert any(_gaps(clip.visible[:, index]) for index in range(clip.num_objects))
        enters += int((~clip.visible[0] & clip.visible[-1]).sum())
        leaves += int((clip.visible[0] & ~clip.visible[-1]).sum())
    assert enters and leaves


def test_an_object_moves_smoothly_and_keeps_its_colour_through_the_clip() -> None:
    for seed in range(6):
        clip = concept_clip(seed, image_size=SIZE)
        boxes = clip.boxes
        centres = (boxes[..., :2] + boxes[..., 2:]) / 2
        both = clip.visible[1:] & clip.visible[:-1]
        steps = np.linalg.norm(centres[1:] - centres[:-1], axis=-1)[both]
        assert steps.max() < 0.25 * SIZE, "an identity jumps"
        for index in range(clip.num_objects):
            areas = clip.masks[:, index].sum(axis=(1, 2))
            best = np.argsort(areas)[-2:]
            tones = [clip.frames[frame][clip.masks[frame, index]].mean(axis=0) for frame in best]
            assert np.abs(tones[0] - tones[1]).max() < 45


@pytest.mark.parametrize("split", SPLITS)
def test_phrases_of_clips_name_identities(split: str) -> None:
    for seed in range(10):
        clip = concept_clip(seed, num_frames=8, image_size=64, split=split)
        phrases = {phrase: indices for phrase, indices in clip.concepts.items() if indices}
        assert phrases and all(max(indices) < clip.num_objects for indices in phrases.values())
        assert all(is_unseen(parse_phrase(phrase)) == (split == "unseen") for phrase in phrases)
        if split != "unseen":
            assert phrases[ANY_SHAPE] == tuple(range(clip.num_objects))
            assert not any(is_unseen(parse_phrase(phrase)) for phrase in [*clip.concepts, *clip.vocabulary])
        assert any(not indices for indices in clip.concepts.values())


def test_the_same_seed_gives_the_same_clip() -> None:
    first, again = (concept_clip(5, num_frames=8, image_size=64) for _ in range(2))
    assert first.frames.tobytes() == again.frames.tobytes() and np.array_equal(first.masks, again.masks)
    assert first.concepts == again.concepts and first.clip_id == again.clip_id


def test_chosen_frames_of_a_clip_are_those_of_the_whole() -> None:
    whole, part = concept_clip(5, 8, 64), concept_clip(5, 8, 64, shown=[6, 2])
    assert np.array_equal(part.masks, whole.masks[[6, 2]])
    present = [{phrase: objects for phrase, objects in one.concepts.items() if objects} for one in (part, whole)]
    assert present[0] == present[1]
    by_masks = concept_clip(5, 8, 64, shown=lambda masks: [len(masks) - 2, 2])
    assert by_masks.clip_id == part.clip_id and np.array_equal(by_masks.frames, part.frames)
    apart = np.abs(part.frames.astype(int) - whole.frames[[6, 2]])  # the noise alone is drawn anew
    assert apart.mean() < 8 and part.num_frames == 2 and part.clip_id != whole.clip_id
    with pytest.raises(ValueError, match="each of shown must be from 0 to 7, got 8"):
        concept_clip(5, 8, 64, shown=[8])
    with pytest.raises(ValueError, match="shown names no frame"):
        concept_clip(5, 8, 64, shown=[])


@pytest.mark.parametrize(("num_frames", "max_objects"), [(1, 1), (2, 12), (7, 6), (8, 1), (8, 12), (30, 2)])
def test_short_and_crowded_clips(num_frames: int, max_objects: int) -> None:
    for seed in range(3):
        clip = concept_clip(seed, num_frames, 64, max_objects=max_objects)
        assert len(clip.frames) == num_frames and clip.num_objects <= max_objects


@pytest.mark.parametrize(
    "arguments",
    [{"num_frames": 0}, {"image_size": 10}, {"max_objects": 0}, {"max_objects": 13}, {"split": "dev"}, {"seed": -3}],
)
def test_bad_arguments_of_clips_are_named(arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        concept_clip(**{"seed": 0, **arguments})
