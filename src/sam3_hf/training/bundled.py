"""How the bundled model `sam3-hf-tiny` is made: its configuration, its data, its training.

usage: python -m sam3_hf.training.bundled OUTPUT [--name-minutes 35] [--minutes 100] [--data FOLDER] [--init MODEL]
       (several processes: torchrun --nproc_per_node 2 -m sam3_hf.training.bundled ...)

Trains the detector on concept scenes and, with `--data`, on the train splits of COCO JSON folders
(`FOLDER/NAME/train.json`), goes on with larger pictures, which show small objects, then with more photos, then, on the
frozen vision tower, with what reads it, with clicks and with tracking, and writes the model to OUTPUT/model.
Stopped at any moment, the same command goes on from the last checkpoint. docs/tiny_model.md has what came of it.
"""

import argparse
import math
import os
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from ..configuration import Sam3Config
from ..files import written_whole
from ..modeling import Sam3Model
from ..modeling.layers import inverse_sigmoid, multiplies_fast
from ..processing import Sam3Processor
from .bundled_data import MIXTURE, PHOTO_MIXTURE, training_data
from .bundled_stages import DETECTOR_STAGES, train_detector, train_names, train_words
from .bundled_tracker import train_clicks, train_clips, train_neck
from .collator import ConceptCollator
from .priming import prime_detector
from .recipes import freeze

__all__ = ["bundled_config", "export", "main"]

# Against the released recipe: boxes count for more, the semantic map for less, and DAC's copies start from noisy true
# boxes. A released model can wait until its queries have learned to look near their boxes; this one cannot.
LOSSES = {
    "weight_bbox": 10.0,
    "weight_giou": 4.0,
    "weight_semantic": 10.0,
    "weight_semantic_dice": 10.0,
    "weight_o2m": 1.0,
    "denoise": 2,
    "weight_class": 50.0,
    "class_positive": 4.0,
    "class_beta": 0.25,
    "mask_points": 4096,
}
# A small decoder answers an object twice now and then, which released ones hardly do.
DUPLICATE_IOU = 0.5
# As released: crowded pictures have more than 100 objects, and a query cannot answer twice.
QUERIES = 200
# A small tracker loses what hides more often than a released one; see `VideoRules`.
RETURNS = {"reclaim_lost_trk_from": 3, "reclaim_lost_trk_to": 30}


def bundled_config(image_size: int = 224) -> Sam3Config:
    """The released graph with small sizes: a 192-wide vision tower of 8 layers, 64 channels from the neck on."""
    backbone = {
        "hidden_size": 192,
        "intermediate_size": 768,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
        "image_size": image_size,
        "patch_size": 14,
        "window_size": 8,
        "global_attn_indexes": [1, 3, 5, 7],
        "pretrain_image_size": image_size,
        "drop_path_rate": 0.0,
    }
    vision = {"backbone_config": backbone, "fpn_hidden_size": 64}
    size = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "dropout": 0.0}
    text = {"hidden_size": 64, "num_attention_heads": 4, "intermediate_size": 256, "projection_dim": 64}
    clicks = {"hidden_size": 64, "num_attention_heads": 4, "mlp_dim": 128, "iou_head_hidden_dim": 64}
    clicks["attention_downsample_rate"] = 1  # heads of 16 channels: of 8, they hold too few frequencies of a position
    return Sam3Config(
        detector_config={
            "vision_config": vision,
            "text_config": text | {"num_hidden_layers": 3},
            "geometry_encoder_config": size | {"num_layers": 2},
            "detr_encoder_config": size | {"num_layers": 3},
            "detr_decoder_config": size | {"num_layers": 3, "num_queries": QUERIES},
            "mask_decoder_config": {"hidden_size": 64, "num_attention_heads": 4},
            "loss_config": LOSSES,
            "duplicate_iou": DUPLICATE_IOU,
        },
        tracker_config={
            "vision_config": vision,
            "prompt_encoder_config": {"hidden_size": 64},
            "mask_decoder_config": clicks,
            "memory_attention_hidden_size": 64,
            "memory_attention_num_layers": 2,
            "memory_attention_feed_forward_hidden_size": 128,
            "memory_attention_dropout": 0.0,
            "memory_attention_rope_dropout": 0.0,
            "memory_encoder_hidden_size": 64,
            "mask_downsampler_embed_dim": 64,
            "memory_fuser_embed_dim": 64,
            "memory_fuser_intermediate_dim": 128,
        },
        **RETURNS,
    )


def export(model: Sam3Model, folder: Path) -> None:
    """Writes model and processor to `folder`, the weights as float16 to be opened as float32: half the size."""
    model.eval().requires_grad_(True)
    model.save_pretrained(folder)
    Sam3Processor(size=model.config.image_size).save_pretrained(folder)
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    with written_whole(folder / "model.safetensors") as partial:
        save_file(weights, partial, metadata={"format": "pt"})


def at_size(model: Sam3Model, image_size: int) -> Sam3Model:
    """The model with the same weights for pictures of another size, its table of positions stretched to their grid."""
    if model.config.image_size == image_size:
        return model
    config = deepcopy(model.config)
    config.image_size = image_size
    for half in (config.detector_config, config.tracker_config):
        half.vision_config.backbone_config.pretrain_image_size = image_size
    weights = model.state_dict()
    [name] = [name for name in weights if name.endswith("embeddings.position_embeddings")]
    side = image_size // config.detector_config.vision_config.backbone_config.patch_size
    before = round(weights[name].shape[1] ** 0.5)
    table = weights[name].transpose(1, 2).unflatten(2, (before, before))
    stretched = F.interpolate(table, (side, side), mode="bicubic", align_corners=False)
    large = Sam3Model(config)
    large.load_state_dict(weights | {name: stretched.flatten(2).transpose(1, 2)})
    return large


def with_queries(model: Sam3Model, num_queries: int) -> Sam3Model:
    """The model with at least that many object queries; new ones are copies of its own, from boxes half a side away."""
    before = model.config.detector_config.detr_decoder_config.num_queries
    if before >= num_queries:
        return model
    config = deepcopy(model.config)
    config.detector_config.detr_decoder_config.num_queries = num_queries
    weights = model.state_dict()
    [embed] = [name for name in weights if name.endswith("detr_decoder.query_embed.weight")]
    [places] = [name for name in weights if name.endswith("detr_decoder.reference_points.weight")]
    copied = torch.arange(num_queries - before) % before
    boxes = weights[places][copied].sigmoid()
    angle = torch.arange(len(copied)) * (math.pi * (3 - 5**0.5))
    boxes[:, :2] += 0.5 * boxes[:, 2:] * torch.stack((angle.cos(), angle.sin()), 1)
    started = inverse_sigmoid(boxes.clamp(0.02, 0.98))
    large = Sam3Model(config)
    large.load_state_dict(
        weights
        | {embed: torch.cat((weights[embed], weights[embed][copied]))}
        | {places: torch.cat((weights[places], started))}
    )
    return large


def with_new_tracker(model: Sam3Model) -> Sam3Model:
    """The model with the tracker of `bundled_config`, before any training, in place of its own."""
    config = deepcopy(model.config)
    config.tracker_config = bundled_config(model.config.image_size).tracker_config
    config.tracker_config.vision_config = deepcopy(model.config.tracker_config.vision_config)
    new = Sam3Model(config)
    new.detector_model.load_state_dict(model.detector_model.state_dict())
    return new


def _opened(folder: str) -> Sam3Model:
    """The model in a folder, with the losses, rules and number of queries of the bundled one."""
    config = Sam3Config.from_pretrained(folder)
    config.detector_config.loss_config, config.detector_config.duplicate_iou = dict(LOSSES), DUPLICATE_IOU
    for name, frames in RETURNS.items():
        setattr(config, name, frames)
    config.tracker_config.memory_attention_dropout = config.tracker_config.memory_attention_rope_dropout = 0.0
    return with_queries(Sam3Model.from_pretrained(folder, config=config), QUERIES)


def _tower_learns(options: argparse.Namespace) -> bool:
    """Whether a stage that is asked for changes the vision tower."""
    stages = ["name_minutes", "word_minutes"]
    stages += [stage.minutes for stage in DETECTOR_STAGES.values() if stage.tower_learns]
    return not options.freeze_vision and any(getattr(options, minutes) for minutes in stages)


def train(options: argparse.Namespace) -> None:
    """All stages that are asked for, and the model in OUTPUT/model."""
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    rank, processes = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    place = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    if processes > 1:
        torch.distributed.init_process_group("nccl" if place != "cpu" else "gloo")
    torch.manual_seed(options.seed)
    if options.init:
        model = _opened(options.init)
        model = at_size(model, options.image_size or model.config.image_size)
    else:
        model = Sam3Model(bundled_config(options.image_size or 224))
        prime_detector(model.detector_model)
    size = model.config.image_size
    if options.freeze_vision:
        freeze(model.detector_model, "vision")
    model.to(place)
    folder = Path(options.data) if options.data else None
    seed = options.seed * processes + rank
    data = training_data(folder, size, MIXTURE | options.share, seed, options.max_objects)
    collator = ConceptCollator(Sam3Processor(size=size))
    if options.name_minutes:
        train_names(model.detector_model, collator.processor.tokenizer, options, seed)
    if options.word_minutes:
        train_words(model.detector_model, collator, options, seed)
    if options.minutes:
        train_detector(model.detector_model, data, collator, options)
    later = (
        ("large", options.large_size, MIXTURE),
        ("photos", options.photo_size, PHOTO_MIXTURE),
        ("heads", None, PHOTO_MIXTURE),
    )
    for number, (stage, larger, mixture) in enumerate(later):
        if not getattr(options, DETECTOR_STAGES[stage].minutes):
            continue
        if larger:
            size = larger
            model = at_size(model, size).to(place)
            if options.freeze_vision:
                freeze(model.detector_model, "vision")
            collator = ConceptCollator(Sam3Processor(size=size))
        data = training_data(folder, size, mixture | options.share, seed + 1 + number, options.max_objects)
        train_detector(model.detector_model, data, collator, options, stage)
    if any(getattr(options, stage.minutes) for stage in DETECTOR_STAGES.values()):
        with torch.no_grad():
            last_layer = model.detector_model.detr_decoder.presence_head.get_submodule("layer3")
            last_layer.get_parameter("bias").add_(options.presence_bias)
    fresh = options.fresh_tracker or not options.init
    if fresh:
        model = with_new_tracker(model).to(place)
    elif options.neck_minutes and _tower_learns(options):
        train_neck(model, at_size(Sam3Model.from_pretrained(options.init), size).to(place), data, collator, options)
    if options.click_minutes:
        train_clicks(model, data, collator, options, fresh)
    if options.clip_minutes:
        train_clips(model, data, collator, options, seed, fresh or options.fresh_memory)
    if rank == 0:
        export(model, output / "model")
    if processes > 1:
        torch.distributed.destroy_process_group()


def _share(text: str) -> dict[str, float]:
    name, _, value = text.partition("=")
    if name not in MIXTURE or not value.replace(".", "", 1).isdecimal():
        raise argparse.ArgumentTypeError(f"expected NAME=SHARE with a name of {', '.join(MIXTURE)}, got {text!r}")
    return {name: float(value)}


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train the bundled model.")
    add = parser.add_argument
    add("output")
    add("--minutes", type=float, default=100, help="of the detector's training (0: none)")
    add("--large-minutes", type=float, default=80, help="of the same with pictures of --large-size (0: none)")
    add("--large-size", type=int, default=336, help="side of the pictures from then on")
    add("--photo-minutes", type=float, default=75, help="of the stage after it: more photos (0: none)")
    add("--photo-size", type=int, default=448, help="side of the pictures from then on")
    add("--head-minutes", type=float, default=100, help="of the stage after it: all but the vision tower (0: none)")
    add("--neck-minutes", type=float, default=5, help="with --init: to keep the tracker where the tower has learned")
    add("--name-minutes", type=float, default=0, help="of the stage before: shapes, colours, ... by name (0: none)")
    add("--name-weight", type=float, default=2.0, help="of names beside the detector's loss")
    add("--outline-weight", type=float, default=5.0, help="of outlines beside the detector's loss")
    add("--word-minutes", type=float, default=0, help="of the stage before: what words mean (0: none)")
    add("--steps", type=int, default=0, help="of each stage that is asked for, in place of its minutes")
    add("--click-minutes", type=float, default=25, help="of the stage after it: clicks, on the frozen vision tower")
    add("--clip-minutes", type=float, default=60, help="of the last stage: following objects through clips")
    add(
        "--fresh-tracker",
        action="store_true",
        help="with --init: the tracker begins anew (without, always)",
    )
    add("--fresh-memory", action="store_true", help="with --init: the tracker's memory begins anew (without, always)")
    add("--click-rate", type=float, default=3e-3, help="the learning rate of clicks")
    add("--click-matrix-rate", type=float, default=4e-3, help="that of their matrices")
    add("--clip-rate", type=float, default=1.5e-3, help="the learning rate of clips")
    add("--clip-matrix-rate", type=float, default=2e-3, help="that of their matrices")
    add("--clip-frames", type=int, default=6, help="frames of a clip")
    add("--data", help="folder with facade/, nuclei/, clothing/, coco/ (default: concept scenes alone)")
    add("--share", type=_share, action="append", default=[], metavar="NAME=SHARE", help=f"change {MIXTURE}")
    add("--max-objects", type=int, default=20, help="in a scene; fewer (and so larger) ones are easier to begin with")
    add("--init", help="model to start from")
    add("--freeze-vision", action="store_true", help="the vision tower stays as it is; so does the tracker")
    add("--image-size", type=int, help="side of the pictures of the first stages (default: MODEL's, without one 224)")
    add("--batch-size", type=int, default=8, help="pictures of a process")
    add("--learning-rate", type=float, default=6e-4)
    add("--matrix-rate", type=float, default=2e-3, help="the rate of weight matrices, which Muon steps")
    add("--final-rate", type=float, default=0.02, help="the last learning rate, as a part of the highest")
    add("--warmup", type=int, default=100, help="steps of each stage in which the rate rises; less in short ones")
    add("--ema", type=float, default=0.998)
    add("--clip", type=float, default=5.0)
    add(
        "--presence-bias",
        type=float,
        default=2.0,
        help="added to presence after the detector's stages (0: MODEL has it)",
    )
    add("--seed", type=int, default=0)
    add("--workers", type=int, default=1)
    add("--log-every", type=int, default=20)
    add("--save-minutes", type=float, default=5)
    fast = torch.cuda.is_available() or multiplies_fast(torch.bfloat16)  # a CPU without instructions for it emulates it
    add("--bf16", action=argparse.BooleanOptionalAction, default=fast)
    options = parser.parse_args(arguments)
    options.share = {name: share for change in options.share for name, share in change.items()}
    train(options)


if __name__ == "__main__":
    main()
