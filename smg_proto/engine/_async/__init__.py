"""The async client; scripts/build.py makes the sync one of it."""
