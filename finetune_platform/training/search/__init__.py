"""A search for a stage's options: trials that are proposed, trained, measured, and recorded one by one.

What a user may ask for is `task_search.py`; the stage itself is then trained by `run.py`, as if the options had been
written by hand.
"""
