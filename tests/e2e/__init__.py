"""Tests against a Kubernetes cluster, whichever KUBECONFIG names: `make e2e`, or `make e2e-existing`."""
