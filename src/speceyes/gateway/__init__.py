"""The gateway: a server of the chat-completions API, behind which the funnel answers."""
