"""What joins nodes: topologies, routes over them, link loads, and how much slower than cards alone."""
