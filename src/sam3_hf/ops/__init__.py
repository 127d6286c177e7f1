"""Pure tensor functions: boxes, masks, run lengths, suppression. No weights, no state, no configuration."""
