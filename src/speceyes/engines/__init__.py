"""Engines turn a conversation into a generation; each file here is one way of doing that."""
