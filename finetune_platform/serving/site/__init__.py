"""What every page for people stands on: signing in, the gate before the framework, templates, the mount.

What a page shows is its own package's: `page/` for operators, `review/` for reviewers.
"""
