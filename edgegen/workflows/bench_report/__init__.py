"""Accuracy against latency of bundles: measured in one run, written as a report."""
