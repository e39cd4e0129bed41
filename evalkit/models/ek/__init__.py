"""The evalkit artifact (`.ek`): container, configuration and network."""
