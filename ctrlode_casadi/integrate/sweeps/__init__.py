"""The compiled sweeps: step loops in a small typed language, translated to one LLVM module."""
