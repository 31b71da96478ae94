"""Measure accuracy against latency of bundles in one run and write the result as a report."""
