"""The engine: start, replay, record and finish runs. It sees specs, never the decorated objects."""
