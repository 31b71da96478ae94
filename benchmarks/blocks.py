"""Which U-Net blocks: validation loss of the noise predictor at equal images seen, for blocks of about equal INT8 latency.

    python benchmarks/blocks.py --images 64000          # Fashion-MNIST from scripts/datasets.sh; prints one row a variant

Each row: parameters, v-loss (mean squared error, EMA weights in eval mode, 2,000 test images, 8 fixed timesteps),
and CPU milliseconds an image of FP32 and INT8 (one thread, batch 8, interleaved medians) when --latency is given.
"""
