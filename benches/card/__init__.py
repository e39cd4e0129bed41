"""What does a GPU say of evalkit?  ``python -m benches.card --out DIR``: parity, speed, training and adapters in 20 minutes."""
