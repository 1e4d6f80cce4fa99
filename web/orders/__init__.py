"""Orders over HTTP: questions.py what owners are asked, reads.py and writes.py the addresses, shapes.py the answers."""
