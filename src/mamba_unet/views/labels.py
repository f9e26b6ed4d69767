"""Label values with a meaning of their own."""

IGNORE = 255  # pixels without ground truth: loss and metrics leave them out, augmentation fills with it
