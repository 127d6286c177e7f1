"""The README.md that goes with saved weights."""

from pathlib import Path

__all__ = ["write_model_card"]

_CARD = """---
library_name: sam3-hf
pipeline_tag: mask-generation
tags:
- segment-anything
- concept-segmentation
license: other
license_name: sam-license
license_link: https://github.com/facebookresearch/sam3/blob/main/LICENSE
---

# SAM 3 ({name})

Saved by sam3_hf: {millions:.1f} M parameters.
A short noun phrase, example boxes, or both go in; masks, boxes and scores of every matching object come out.

```python
from sam3_hf import {name}, Sam3Processor

model = {name}.from_pretrained("THIS_REPOSITORY")
processor = Sam3Processor.from_pretrained("THIS_REPOSITORY")
```

Plain transformers opens the same files.

## Licence

Weights derived from the published SAM 3 weights fall under the SAM licence, named above. If these were trained from
scratch, state your own licence here.

## To be filled in by whoever publishes this

Training data, evaluation figures with the command that made them, known limits.
"""


def write_model_card(path: Path, name: str, num_parameters: int) -> None:
    """Writes a model card for a `name` model of `num_parameters` to `path`."""
    path.write_text(_CARD.format(name=name, millions=num_parameters / 1e6), encoding="utf-8")
