"""What is remembered: a file per domain with its tables, the layout of their keys, and their reads."""
