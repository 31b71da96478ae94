"""What a path holds that somebody else filled: photos, their classes, and what is left out of it.

Only names, types and small tables are looked at here; no photo is decoded.
"""
