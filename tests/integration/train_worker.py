"""Trains the toy model as one of several processes: `python train_worker.py OUTPUT '{"max_steps": 4, ...}'`.

Run by test_training.py through torchrun; writes OUTPUT/log.json with the curve and the metrics, and the model to
OUTPUT/final. Settings are training arguments, and: "base" (directory of the model to start from), "count" and "side" of
the pictures, "resume" (checkpoint), "fsdp" (true: the model is sharded with FSDP2), "state_dict_type".
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import transformers
from accelerate import DistributedType, PartialState

from sam3_hf import Sam3Detector, Sam3Processor
from sam3_hf.training.arguments import Sam3TrainingArguments
from sam3_hf.training.trainer import Sam3Trainer
from training_toys import SIDE, Rectangles, collate, toy_model

FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "VisionLayer,TextLayer,DecoderLayer",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def allow_fsdp_on_cpu(arguments: Sam3TrainingArguments) -> None:
    """accelerate takes up FSDP with accelerators only, though torch has it for CPUs too."""
    assert arguments.device.type == "cpu"  # asking for it sets the state up
    PartialState().distributed_type = DistributedType.MULTI_GPU


def main(output: Path, settings: dict[str, Any]) -> None:
    transformers.utils.logging.disable_progress_bar()
    resume, base = settings.pop("resume", None), settings.pop("base", None)
    count, side = settings.pop("count", 8), settings.pop("side", SIDE)
    defaults: dict[str, Any] = {
        "output_dir": str(output), "max_steps": 4, "logging_steps": 1, "report_to": "none", "disable_tqdm": True,
        "use_cpu": True, "save_strategy": "no", "learning_rate": 1e-3, "per_device_eval_batch_size": 2,
    }  # fmt: skip
    is_sharded = settings.pop("fsdp", False)
    if is_sharded:
        os.environ.update(FSDP2 | {"FSDP_STATE_DICT_TYPE": settings.pop("state_dict_type", "FULL_STATE_DICT")})
    arguments = Sam3TrainingArguments(**defaults | settings)
    if is_sharded:
        allow_fsdp_on_cpu(arguments)
    data = Rectangles(count, side)
    trainer = Sam3Trainer(
        toy_model(side) if base is None else Sam3Detector.from_pretrained(base),
        arguments,
        train_dataset=data,
        eval_dataset=data,
        data_collator=collate,
        processing_class=Sam3Processor(size=side),
    )
    trainer.train(resume_from_checkpoint=resume)
    metrics = trainer.evaluate()
    trainer.save_model(str(output / "final"))
    if trainer.is_world_process_zero():
        log = {"history": trainer.state.log_history, "metrics": metrics, "epochs": data.epochs}
        (output / "log.json").write_text(json.dumps(log))
    trainer.accelerator.end_training()


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
