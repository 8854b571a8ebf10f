"""Differentially private training (DP-SGD, Abadi et al. 2016): what one row adds to a step is bounded and covered by
noise.

Which rows a step draws and the secret behind every draw are in `sampling.py`, the clipped and noisy gradient in
`gradients.py`, what all of it amounts to in `accounting.py`. Plain training knows nothing of this package but the
gradient that a step asks for.
"""
