"""Bought orders over HTTP: questions.py asks owners, reads.py and writes.py answer callers; shapes as for orders."""
