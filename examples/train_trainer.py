"""Trains a tiny SAM 3 on drawn scenes with `Trainer`: `python examples/train_trainer.py OUTPUT`; minutes on a CPU."""

import sys

from sam3_hf import Sam3Model, Sam3Processor, tiny_config
from sam3_hf.data import SceneDataset
from sam3_hf.training import (
    AllPhrases,
    ConceptCollator,
    ConceptDataset,
    ConceptSampler,
    Sam3Trainer,
    Sam3TrainingArguments,
)

output = sys.argv[1] if len(sys.argv) > 1 else "runs/trainer"
steps = int(sys.argv[2]) if len(sys.argv) > 2 else 200

config = tiny_config(image_size=112)
model = Sam3Model(config)  # to fine-tune: Sam3Model.from_pretrained("facebook/sam3")
processor = Sam3Processor(size=config.image_size)

# What a training set is: pictures with objects, and phrases that say which of them are meant, or that none is.
train = ConceptDataset(SceneDataset(2000, image_size=112), ConceptSampler(positives=3, random_negatives=1))
val = ConceptDataset(SceneDataset(20, split="val", image_size=112), AllPhrases(negatives=5))

arguments = Sam3TrainingArguments(
    output_dir=output,
    max_steps=steps,
    per_device_train_batch_size=8,
    learning_rate=1e-3,
    eval_strategy="steps",
    eval_steps=steps,
    save_steps=steps,
)
trainer = Sam3Trainer(
    model,
    arguments,
    train_dataset=train,
    eval_dataset=val,
    data_collator=ConceptCollator(processor),
    processing_class=processor,
)
trainer.train()
trainer.save_model(output)
print(f"pipeline('concept-segmentation', model={output!r}) opens it")
