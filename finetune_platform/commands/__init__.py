"""What the commands of `finetune` do: a file a command, and its words on the screen in a file of their own.

The library never prints; what is computed belongs in its packages, what is asked and shown belongs here.
"""
