"""The Hugging Face Space: `python spaces_demo/app.py`. What it does is in `sam3_hf.demo`; on a laptop, `sam3-hf demo`.

Settings come from the environment: SAM3_HF_MODEL (default: the bundled model), SAM3_HF_ANY_MODEL=1 lets users name
directories and repositories themselves (default on a laptop, not on a Space).
"""

import os

try:
    import spaces  # where the accelerator is lent for a call (ZeroGPU); before torch, which it prepares
except ImportError:
    spaces = None

from sam3_hf.demo import BUNDLED, ModelShelf
from sam3_hf.demo.page import build_page, serve

IS_SPACE = "SPACE_ID" in os.environ
IS_LENT = spaces is not None and bool(os.environ.get("SPACES_ZERO_GPU"))
LENT_SECONDS = 120  # at most, of one call: a video is followed in one


def make_page():
    """The page, with the accelerator asked for around every use of the model where it is lent."""
    shelf = ModelShelf(
        os.environ.get("SAM3_HF_MODEL", BUNDLED),
        wrapper=spaces.GPU(duration=LENT_SECONDS) if IS_LENT else None,
        any_name=os.environ.get("SAM3_HF_ANY_MODEL", "0" if IS_SPACE else "1") == "1",
    )
    return build_page(shelf)


demo = make_page()

if __name__ == "__main__":
    serve(demo, server_name="0.0.0.0" if IS_SPACE else None)
