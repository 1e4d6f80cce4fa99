"""A long log of the checkout, made under faults -> every claim about its past, held against it on real processes."""
