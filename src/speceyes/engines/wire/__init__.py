"""The chat-completions API as values: requests to JSON, replies to generations, no socket."""
