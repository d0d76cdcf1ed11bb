"""Health of an installation: `self_test` checks a bundle with its engines on this machine, `doctor` everything around them."""
