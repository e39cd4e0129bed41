"""How are the engine's own parts audited?  As black boxes on a toy model, and by replays with the target withheld."""
