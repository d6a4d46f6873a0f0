"""Secure aggregation: the server learns the sum of uploads, and no upload."""
