"""Quantisation: grids of integers with one step per row (SDClip), GPTQ, and a range coder."""
