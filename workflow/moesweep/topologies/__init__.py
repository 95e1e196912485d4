"""Networks compared: what each does to workloads, which links bind, what bandwidth a card needs."""
