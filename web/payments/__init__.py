"""Payments over HTTP: reads for callers, and the callback by which the provider tells what became of a payment."""
