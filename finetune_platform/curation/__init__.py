"""Raw rows to a versioned dataset: read the sources, set bad rows aside, sift, group, split, check.

One step is one file with one verb. Nothing here knows Dagster, training or serving; what a row is stands in
`rows.py`, what a manifest says in `manifests.py`.
"""
