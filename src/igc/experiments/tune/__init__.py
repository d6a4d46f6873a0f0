"""The best recipe for a budget of bytes, by successive halving."""
