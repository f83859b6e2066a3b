"""The paper's tables, on any data: every method, measured the same way."""
