"""A decoder's forward and backward pass by hand, for LoRA training on a CPU: the same result, fewer passes over memory.

transformers and PEFT build a layer of some sixty operations, each of which writes its result, and autograd writes as
many again. Here a layer is one operation with a backward pass of its own. Which runs may take this way is decided in
`decoder.py`; every other run goes through transformers' modules.
"""
