"""A task's documents, cut and indexed, and the passages that may help an answer."""
