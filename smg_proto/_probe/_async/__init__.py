"""The async calls. scripts/build.py generates the sync calls from them."""
