"""Token ids and text, with the tokenizer that a server sends. Needs the extra `decode`."""
