"""Tokenizers of servers. Needs the extra `decode`."""
