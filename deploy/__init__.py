"""How Sightlog is run: on one machine without containers (`local`), with Compose, on Kubernetes."""
