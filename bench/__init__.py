"""Speed, memory and parity: what the engine claims, measured side by side with what it is compared to."""
