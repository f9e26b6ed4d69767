"""What a segmentation says in numbers and at a glance: sizes of structures, the heart's function, a picture."""
