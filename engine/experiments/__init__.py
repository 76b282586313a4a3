"""The paper's experiments as declarations over the engine's parts."""
