"""Job files for schedulers: a run on the machines of Slurm, SkyPilot, Kubernetes or Ray; nothing is scheduled here."""
