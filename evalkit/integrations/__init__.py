"""Which other tools can call evalkit?"""
