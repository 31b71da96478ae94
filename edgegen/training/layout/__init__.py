"""The layout of a folder or archive of photos: the photos, their classes, and what is left out.

Only names, types and small tables are read here; no photo is decoded.
"""
