"""The operator's page: what serves each task, the evidence for and against a canary, and the buttons that change it.

Everything it shows and does goes through the same functions as the command line and the operator's API.
"""
