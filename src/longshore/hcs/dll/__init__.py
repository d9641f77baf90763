"""vmcompute.dll: its binding, its errors, and what calling it needs."""
