"""What tests start, speak to and compare with."""
