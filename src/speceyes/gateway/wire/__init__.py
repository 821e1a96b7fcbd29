"""JSON to values and back: what the gateway says and hears (pure)."""
