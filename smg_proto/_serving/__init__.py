"""What every server of this package shares: its address, health, reflection, signals and drain.

The front door, the demo, LLMGRPCAdapter and the fakes are built from these parts.
"""
