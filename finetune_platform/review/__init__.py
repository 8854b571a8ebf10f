"""The review pages: people answer rows, a lead decides where they disagree, and everybody sees how far they have come.

It stands above `labeling/`, which keeps what people say, and `serving/`, whose application and sign-in it uses.
"""
