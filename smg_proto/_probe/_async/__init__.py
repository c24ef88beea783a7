"""The async calls; scripts/build.py makes the sync ones of them."""
