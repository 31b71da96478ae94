"""dkgm: kernel density estimation draws coarse images, an iteration debiases them (Qin & Huang,
arXiv 2503.20825; docs/methods/dkgm.md).
"""
