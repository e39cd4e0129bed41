"""The audit of the engine's own parts: as black boxes on a toy model, and by replays with the target withheld."""
