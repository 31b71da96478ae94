"""Bring generators that somebody else trained: files in, graphs and a sampler out. Nothing of them
is executed except weights, in classes that are named here.
"""
