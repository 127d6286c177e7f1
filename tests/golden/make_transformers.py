"""Remakes tests/golden/transformers: answers of transformers' own SAM 3 classes for weights that follow from names.

usage: python tests/golden/make_transformers.py
needs: transformers 5.23.0 with torchvision (its SAM 3 classes ask for it). Written with torch 2.15.0, CPU, float32.

Only what transformers computes like the reference is stored: prompts with boxes (without any, transformers leaves out
the exemplar encoder's CLS token), and clicks without padding. The "no memory" embedding is set to zero: transformers
adds it to the neck's fourth level, which nothing reads, where the reference adds it to the third.
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Sam3Model, Sam3TrackerModel, Sam3VideoConfig, Sam3VideoModel

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "reference"))
from reference import fill  # noqa: E402

BACKBONE = {
    "model_type": "sam3_vit_model", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "image_size": 224, "patch_size": 14, "window_size": 4, "global_attn_indexes": [1, 3],
    "pretrain_image_size": 56, "layer_norm_eps": 1e-5,
}  # fmt: skip
VISION = {"model_type": "sam3_vision_model", "backbone_config": BACKBONE, "fpn_hidden_size": 32,
          "backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]]}  # fmt: skip
SMALL = {"hidden_size": 32, "num_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
CONFIG = {
    "detector_config": {
        "vision_config": VISION,
        "text_config": {
            "model_type": "clip_text_model", "vocab_size": 49408, "hidden_size": 32, "intermediate_size": 64,
            "projection_dim": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 32,
            "hidden_act": "gelu",
        },
        "geometry_encoder_config": SMALL,
        "detr_encoder_config": SMALL,
        "detr_decoder_config": SMALL | {"num_queries": 12},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 4},
    },
    "tracker_config": {
        "vision_config": VISION,
        "prompt_encoder_config": {"hidden_size": 32, "image_size": 224},
        "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 64, "num_attention_heads": 4, "iou_head_hidden_dim": 32},
        "memory_attention_hidden_size": 32, "memory_attention_num_layers": 2,
        "memory_attention_feed_forward_hidden_size": 64, "memory_attention_rope_feat_sizes": [16, 16],
        "memory_encoder_hidden_size": 32, "mask_downsampler_embed_dim": 32, "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 64, "image_size": 224,
    },
}  # fmt: skip


def pixels(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 224, 224, generator=torch.Generator().manual_seed(1))


def concept_cases() -> dict[str, dict[str, torch.Tensor]]:
    """Prompts of the detector, all with boxes."""
    ids = torch.full((2, 32), 49407)
    ids[:, :4] = torch.tensor([[49406, 1125, 2368, 49407], [49406, 320, 2368, 49407]])
    mask = torch.zeros(2, 32, dtype=torch.long)
    mask[:, :4] = 1
    boxes = torch.tensor(
        [[[0.3, 0.5, 0.22, 0.3], [0.72, 0.33, 0.2, 0.27]], [[0.5, 0.5, 0.9, 0.9], [0.1, 0.1, 0.1, 0.1]]]
    )
    text = {"input_ids": ids, "attention_mask": mask}
    return {
        "boxes": {**text, "input_boxes": boxes, "input_boxes_labels": torch.tensor([[1, 0], [1, 1]])},
        "padded_boxes": {**text, "input_boxes": boxes, "input_boxes_labels": torch.tensor([[1, 0], [0, -10]])},
    }


def click_cases() -> dict[str, dict[str, torch.Tensor]]:
    """Prompts of the tracker, without padding."""
    points = torch.tensor([[[[60.0, 100.0], [150.0, 80.0]], [[20.0, 30.0], [200.0, 210.0]]]]).repeat(2, 1, 1, 1)
    labels = torch.tensor([[[1, 0], [1, 1]]]).repeat(2, 1, 1)
    boxes = torch.tensor([[[20.0, 30.0, 120.0, 160.0], [100.0, 90.0, 220.0, 200.0]]]).repeat(2, 1, 1)
    one = {"input_points": points[:, :1], "input_labels": labels[:, :1]}
    masks = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(2))
    return {
        "points": {"input_points": points, "input_labels": labels},
        "object_boxes": {"input_boxes": boxes},
        "points_and_boxes": {"input_points": points, "input_labels": labels, "input_boxes": boxes},
        "masks": {**one, "input_masks": masks},
    }


@torch.inference_mode()
def main() -> None:
    whole = Sam3VideoModel(Sam3VideoConfig(**CONFIG)).eval()
    names = {name: list(tensor.shape) for name, tensor in whole.state_dict().items()}
    whole.load_state_dict({name: fill(name, tuple(shape)) for name, shape in names.items()})
    whole.tracker_model.no_memory_embedding.zero_()
    detector: Sam3Model = whole.detector_model
    tracker = Sam3TrackerModel(whole.config.tracker_config).eval()
    state = {f"vision_encoder.neck.{k}": v for k, v in whole.tracker_neck.state_dict().items()}
    backbone = detector.vision_encoder.backbone.state_dict()
    state |= {f"vision_encoder.backbone.{k}": v for k, v in backbone.items()}
    tracker.load_state_dict(state | whole.tracker_model.state_dict(), strict=False)
    gold = {}
    for tag, case in concept_cases().items():
        out = detector(pixel_values=pixels(2), **case)
        for key in ("pred_logits", "presence_logits", "pred_boxes", "pred_masks", "semantic_seg"):
            gold[f"{tag}.{key}"] = out[key][..., ::2, ::2] if out[key].dim() == 4 else out[key]
    for tag, case in click_cases().items():
        for multimask in (True, False):
            out = tracker(pixel_values=pixels(2), multimask_output=multimask, **case)
            for key in ("pred_masks", "iou_scores", "object_score_logits"):
                value = out[key][..., ::2, ::2] if out[key].dim() == 5 else out[key]
                gold[f"{tag}.{'multi' if multimask else 'single'}.{key}"] = value
    folder = HERE / "transformers"
    folder.mkdir(exist_ok=True)
    save_file({k: v.float().contiguous().clone() for k, v in gold.items()}, folder / "outputs.safetensors")
    (folder / "keys.json").write_text(json.dumps(names, indent=0) + "\n")
    (folder / "config.json").write_text(whole.config.to_json_string())


if __name__ == "__main__":
    main()
