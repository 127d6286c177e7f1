"""Frames per second of the tracker over objects, in turn with transformers' on the same weights.

usage: python benchmarks/video_vs_transformers.py [--objects 1 4 16 64] [--frames 12] [--pairs 3] [--released]
           [--image-size 112] [--device cpu] [--dtype float32]
needs: transformers >= 5.10 with torchvision (transformers' own classes ask for it).

Both follow the same clicked objects through the same random frames, vision tower included. Sizes are tiny unless
`--released`. Prints the seconds of each pair and the ratio transformers / ours: look at ratios, machines are noisy.
"""

import argparse
import tempfile
import time
from typing import Any

import numpy as np
import torch
from transformers import Sam3TrackerVideoConfig, Sam3TrackerVideoInferenceSession, Sam3TrackerVideoModel

from sam3_hf import Sam3Processor, Sam3TrackerConfig, Sam3VideoTracker


def small_config(image_size: int) -> Sam3TrackerConfig:
    """The smallest sizes that transformers takes: its memories have 64 channels, fewer than its maps must have."""
    backbone = {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 4,
        "image_size": image_size, "window_size": 4, "global_attn_indexes": [1, 3], "pretrain_image_size": 56,
    }  # fmt: skip
    return Sam3TrackerConfig(
        vision_config={"backbone_config": backbone, "fpn_hidden_size": 128},
        prompt_encoder_config={"hidden_size": 128},
        mask_decoder_config={"hidden_size": 128, "mlp_dim": 256, "num_attention_heads": 4, "iou_head_hidden_dim": 128},
        memory_attention_hidden_size=128,
        memory_attention_num_layers=2,
        memory_attention_feed_forward_hidden_size=256,
        memory_encoder_hidden_size=128,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=256,
    )


def build(released: bool, image_size: int) -> tuple[Any, Sam3VideoTracker]:
    """Our tracker with random weights, and transformers' opened from the same directory."""
    torch.manual_seed(0)
    config = Sam3TrackerConfig() if released else small_config(image_size)
    ours = Sam3VideoTracker(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        ours.save_pretrained(folder)
        theirs = Sam3TrackerVideoModel.from_pretrained(folder, config=Sam3TrackerVideoConfig.from_pretrained(folder))
    return theirs.eval(), ours


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--objects", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--frames", type=int, default=12)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--released", action="store_true")
    parser.add_argument("--image-size", type=int, default=112, help="of the small model")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    dtype = getattr(torch, options.dtype)
    theirs, ours = (model.to(options.device, dtype) for model in build(options.released, options.image_size))
    side = ours.config.image_size
    processor = Sam3Processor(size=side)
    frames = np.random.default_rng(0).integers(0, 256, (options.frames, side, side, 3), dtype=np.uint8)
    pixels = processor(images=list(frames))["pixel_values"].to(options.device, dtype)

    def wait() -> None:
        if options.device.startswith("cuda"):
            torch.cuda.synchronize()

    def points(count: int) -> list[list[float]]:
        return np.random.default_rng(1).uniform(0.1 * side, 0.9 * side, (count, 2)).tolist()

    @torch.inference_mode()
    def their_run(count: int) -> float:
        session = Sam3TrackerVideoInferenceSession(
            video=pixels, video_height=side, video_width=side, dtype=dtype,
            inference_device=options.device, inference_state_device=options.device, video_storage_device=options.device,
        )  # fmt: skip
        for number, place in enumerate(points(count)):
            index = session.obj_id_to_idx(number)
            inputs = {"point_coords": torch.tensor([[[place]]]), "point_labels": torch.ones(1, 1, 1, dtype=torch.int32)}
            session.add_point_inputs(index, 0, inputs)
            session.obj_with_new_inputs.append(number)
        wait()
        start = time.perf_counter()
        for frame in range(options.frames):
            theirs(inference_session=session, frame_idx=frame)
        wait()
        return time.perf_counter() - start

    def our_run(count: int) -> float:
        session = processor.init_video_session(inference_device=options.device)
        ids = list(range(count))
        processor.add_inputs_to_inference_session(
            session, 0, ids, [[[place] for place in points(count)]], [[[1]] * count], original_size=(side, side)
        )
        wait()
        start = time.perf_counter()
        for frame in pixels:
            ours(inference_session=session, frame=frame)
        wait()
        return time.perf_counter() - start

    for count in options.objects:
        ratios = []
        for pair in range(options.pairs + 1):
            a, b = (our_run(count), their_run(count)) if pair % 2 else (their_run(count), our_run(count))[::-1]
            if pair == 0:
                continue  # a warm-up
            ratios.append(b / a)
            print(f"{count} objects, pair {pair}: ours {a:.2f} s, transformers {b:.2f} s", flush=True)
        middle = sorted(ratios)[len(ratios) // 2]
        speed = options.frames / a
        print(
            f"==> {count} objects: transformers / ours = {middle:.2f} (median); ours {speed:.1f} frames/s", flush=True
        )


if __name__ == "__main__":
    main()
