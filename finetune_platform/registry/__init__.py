"""Evidence to champion: the bundle, the registry, lineage in both directions and the state of a task's chain."""
