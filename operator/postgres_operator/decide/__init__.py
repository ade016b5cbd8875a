"""Pure decisions: what is there goes in, what to do comes out. No clock, no environment, no client."""
