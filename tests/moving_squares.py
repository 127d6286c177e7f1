"""Videos of a red square that moves to the right on grey: what tests follow."""

from pathlib import Path

import numpy as np

SIZE = (60, 80)
RED, GREY = (200, 40, 40), 110


def moving_square(num_frames: int, step: int = 2, height: int = 20) -> list[np.ndarray]:
    """Frames (60, 80, 3) uint8; the square is 20 pixels wide and moves `step` pixels a frame."""
    frames = []
    for t in range(num_frames):
        frame = np.full((*SIZE, 3), GREY, dtype=np.uint8)
        frame[10 : 10 + height, step * t + 5 : step * t + 25] = RED
        frames.append(frame)
    return frames


def write_moving_square(path: Path, num_frames: int) -> Path:
    """The path of a video file of it, 10 frames a second."""
    from sam3_hf.video.writers import VideoWriter

    with VideoWriter(path, 10.0) as writer:
        for frame in moving_square(num_frames):
            writer.write(frame)
    return path
