"""Pictures that a frozen vision tower has seen once, to be clicked on many times."""

import torch
from torch import Tensor

__all__ = ["SeenPictures", "objects_of_pictures"]

_OBJECTS_KEPT = 8  # of a picture


def objects_of_pictures(labels: list[dict[str, object]], image_ids: Tensor, num_images: int) -> list[Tensor]:
    """Each picture's objects as masks (num_objects, h, w) bool, every object once whatever phrases name it."""
    by_image: list[list[Tensor]] = [[] for _ in range(num_images)]
    for label, image in zip(labels, image_ids.tolist(), strict=True):
        masks = label.get("masks")
        if isinstance(masks, Tensor):
            by_image[image].extend(mask.bool() for mask in masks if mask.any())
    none = torch.zeros(0, 1, 1, dtype=torch.bool)
    return [torch.stack(masks).unique(dim=0) if masks else none for masks in by_image]


class SeenPictures:
    """The last `capacity` pictures that had objects, as the vision tower's tokens in float16, and their objects.

    Encoding a picture costs as much as clicking on six objects of it. Here a few new pictures a step take the place of
    the oldest ones, and each step clicks on any of those that are kept.
    """

    def __init__(self, capacity: int = 2000) -> None:
        self.capacity, self.added = capacity, 0
        self.pictures: list[tuple[Tensor, Tensor]] = []

    def __len__(self) -> int:
        return len(self.pictures)

    def add(self, tokens: Tensor, masks_bool: list[Tensor]) -> None:
        """Keeps pictures: tokens (num_images, cells, channels), and the masks (num_objects, h, w) of each."""
        for of_picture, masks in zip(tokens, masks_bool, strict=True):
            if not len(masks):
                continue
            kept = masks[torch.randperm(len(masks))[:_OBJECTS_KEPT]]
            # A copy: a view would keep the whole batch.
            picture = (of_picture.detach().clone().half(), kept.clone())
            if len(self.pictures) < self.capacity:
                self.pictures.append(picture)
            else:
                self.pictures[self.added % self.capacity] = picture
            self.added += 1

    def draw(self, num_images: int, num_objects: int) -> tuple[Tensor, Tensor]:
        """Tokens (num_images, cells, channels) float32 and masks (num_images, num_objects, h, w) of pictures drawn.

        Where a picture has fewer objects than are asked for, some come twice.
        """
        if not self.pictures:
            raise ValueError("no picture with a mask was added, so there is nothing to click on")
        chosen = [self.pictures[i] for i in torch.randint(len(self.pictures), (num_images,)).tolist()]
        masks = []
        for _, objects in chosen:
            enough = len(objects) >= num_objects
            which = torch.randperm(len(objects)) if enough else torch.randint(len(objects), (num_objects,))
            masks.append(objects[which[:num_objects]])
        return torch.stack([tokens for tokens, _ in chosen]).float(), torch.stack(masks)
