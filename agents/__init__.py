"""What happens: a file per domain with its pure rules (decide, evolve) and the agents that apply them (attach)."""
