"""Shipments over HTTP: questions.py asks owners, reads.py answers callers, shapes.py is what they see."""
