"""The async client. scripts/build.py generates the sync client from it."""
