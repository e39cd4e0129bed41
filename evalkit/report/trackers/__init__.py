"""Which dashboards can follow a run?  One file each; nothing is imported until ``--tracker`` names it."""
