"""Many at once, many one after the other, and those who take more than their share.

`scripts/crowds` runs all of it with the whole numbers, and shows what was measured.
"""
