"""Who may come in, how many, how fast; and what is done when an engine is down."""
