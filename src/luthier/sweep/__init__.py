"""Many runs of one config with other values: which of them give the lowest loss on held-out rows?"""
