"""Submit shared tasks to Slurm."""
