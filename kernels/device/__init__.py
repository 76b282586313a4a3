"""What runs the kernels: Triton for GPUs and calls of native code for CPUs, a file per family of `cannonade.kernels`.

A family's public functions and its PyTorch reference stand in `kernels/<family>.py`; the file of the same name here holds,
top to bottom, the operators registered with `torch.library`, the launchers and the Triton kernels. CASES lists how each
Triton kernel is compiled, for the tests and for `cannonade bench audit`.
"""
