"""Public suites in the formats in which they were released, and a user's own."""
