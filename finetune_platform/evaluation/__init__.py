"""From an adapter to evidence: answers, scores with intervals, gates and a report that a person can open.

Reading data belongs to `curation`, deciding what serves to `registry`.
"""
