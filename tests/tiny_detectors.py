"""Tiny zero-shot detectors of transformers with random weights and tokenizers of a few letters, as directories."""

import string
from pathlib import Path
from typing import Any

import torch
import transformers

LETTERS = string.ascii_lowercase + ",. "


def save_owlv2(folder: Path) -> Path:
    """OWLv2 on pictures of 32 px."""
    torch.manual_seed(0)
    tokenizer = _letters(eos="!")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.Owlv2Config(
        text_config={
            **small, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_dim": 16,
            "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": 2,
        },
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    processor = transformers.Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    return _saved(folder, transformers.Owlv2ForObjectDetection(config), tokenizer, processor)


def save_grounding_dino(folder: Path) -> Path:
    """Grounding DINO with a Swin of two stages and a BERT of one layer."""
    torch.manual_seed(0)
    tokenizer = _letters(eos="[SEP]")
    swin = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=4,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    bert = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=128, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config = transformers.GroundingDinoConfig(
        backbone_config=swin, text_config=bert, d_model=32, encoder_layers=1, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=8,
        encoder_n_points=2, decoder_n_points=2, disable_custom_kernels=True, num_feature_levels=4, max_text_len=128,
    )  # fmt: skip
    processor = transformers.GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    return _saved(folder, transformers.GroundingDinoForObjectDetection(config), tokenizer, processor)


def save_omdet_turbo(folder: Path) -> Path:
    """OmDet-Turbo with a Swin of four stages and a CLIP text tower of one layer."""
    torch.manual_seed(0)
    tokenizer = _letters(eos="!")
    swin = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 1, 1], window_size=2,
        out_indices=[2, 3, 4],
    )  # fmt: skip
    text = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=32, projection_dim=32, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=77, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    config = transformers.OmDetTurboConfig(
        backbone_config=swin, text_config=text, image_size=64, text_projection_in_dim=32, text_projection_out_dim=32,
        class_embed_dim=32, encoder_hidden_dim=16, vision_features_channels=[16, 16, 16],
        encoder_in_channels=[16, 32, 64], num_queries=8, encoder_layers=1, decoder_num_layers=1, decoder_num_heads=2,
        encoder_attention_heads=2, encoder_dim_feedforward=16, decoder_dim_feedforward=16, decoder_hidden_dim=16,
        task_encoder_hidden_dim=16, disable_custom_kernels=True,
        apply_layernorm_after_vision_backbone=False,
    )  # fmt: skip
    processor = transformers.DetrImageProcessorPil(size={"height": 64, "width": 64}, do_pad=False)
    return _saved(folder, transformers.OmDetTurboForObjectDetection(config), tokenizer, processor)


def _letters(eos: str) -> Any:
    """A tokenizer with a token for each letter, "[CLS]" in front and `eos` behind."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors

    vocabulary = {token: number for number, token in enumerate(["[PAD]", "[UNK]", "[CLS]", *LETTERS, eos])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"[CLS] $A {eos}", special_tokens=[("[CLS]", vocabulary["[CLS]"]), (eos, vocabulary[eos])]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", eos_token=eos,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def _saved(folder: Path, model: Any, tokenizer: Any, image_processor: Any) -> Path:
    for parameter in model.parameters():  # as they are made, all boxes are points and all scores alike
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    for part in (model, tokenizer, image_processor):
        part.save_pretrained(folder)
    return folder
