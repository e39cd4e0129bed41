"""Dashboards that can follow a run, one file each; nothing is imported until ``--tracker`` names it."""
