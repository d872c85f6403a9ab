"""Talk to the provisioner's API."""
