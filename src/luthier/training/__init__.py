"""The engine: from a Plan to a stream of events and an adapter on disk."""
