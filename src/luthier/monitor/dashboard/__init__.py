"""The terminal dashboard: the runs of some files on one screen, live or replayed. Imports no torch.

    files --events.follow--> watching.Watch --scene--> Scene --panes, charts--> Text --app--> terminal

Everything up to the app is a pure function of what was read, the settings and a moment; `app.py` alone knows Textual.
"""
