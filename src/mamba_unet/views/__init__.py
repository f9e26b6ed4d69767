"""What a network sees of a case: intensities, orientation, and the samples that a volume is cut into."""
