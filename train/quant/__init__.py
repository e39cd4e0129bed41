"""How do float weights become few bytes?  Grids of integers with one step per row (SDClip), GPTQ, and a range coder."""
