"""`finetune demo --loop`: a whole cycle on real data in minutes, in an installation of its own."""
