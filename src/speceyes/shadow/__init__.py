"""Shadow mode: work beside queries that are answered anyway, of which nothing is served."""
