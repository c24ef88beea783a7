"""The fakes of engines."""
