"""Generators that somebody else trained: files in, graphs and a sampler out. Nothing in them is
executed but weights, by classes that are named here.
"""
