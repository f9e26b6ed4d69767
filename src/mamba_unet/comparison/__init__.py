"""Several networks on the same patients, trained alike, measured alike, tested against one another."""
