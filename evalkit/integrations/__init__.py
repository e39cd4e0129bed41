"""Other tools that call evalkit."""
