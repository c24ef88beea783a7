"""Parts that all servers of this package share: address, health, reflection, signals and drain.

The front door, the demo, LLMGRPCAdapter and the fakes use them.
"""
