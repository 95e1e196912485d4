"""What lies between two result folders: which workloads moved, through which terms, by which inputs."""
