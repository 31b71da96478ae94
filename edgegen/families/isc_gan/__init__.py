"""isc-gan: StyleGAN2 with the image squeeze connection (Park & Shin, arXiv 2407.05527;
docs/methods/isc-gan.md).
"""
