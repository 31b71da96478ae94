"""lcd: latent consistency diffusion, from an autoencoder through a guided teacher to a few-step
student (docs/methods/latent-consistency.md).
"""
