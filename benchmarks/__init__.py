"""What a training step costs: `python -m benchmarks` measures it, tests/test_pins.py holds what must not drift."""
