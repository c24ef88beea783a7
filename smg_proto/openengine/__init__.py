"""openengine.v1: a module for each proto file."""
