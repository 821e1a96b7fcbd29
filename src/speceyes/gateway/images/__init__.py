"""Pictures of requests come in here: from data URLs, and from servers where that is allowed."""
