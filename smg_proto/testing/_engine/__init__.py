"""FakeVllmEngine: the `vllm.grpc.engine` service over the small built-in model."""
