"""One file per family of agentic models: how it calls its tools and how it is answered."""
