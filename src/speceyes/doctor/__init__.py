"""The doctor looks at two engines and says what works, what does not, and how to mend it."""
