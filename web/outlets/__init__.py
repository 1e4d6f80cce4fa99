"""Outlets over HTTP: questions.py asks owners, reads.py and writes.py answer callers, shapes.py says what they see."""
