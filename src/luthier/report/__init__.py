"""Papers from finished runs: one page of HTML that sums up a run, or lays several beside each other. Imports no torch.

files --events.follow, config.record--> run.Run --sections, curves--> page
"""
