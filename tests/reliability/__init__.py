"""What is promised for the worst moment, tried at every moment: `make reliability`."""
