"""Agents that reach the outside world. They read committed events; nothing waits for them."""
