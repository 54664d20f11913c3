"""Tests with the Kubernetes cluster of KUBECONFIG: `make e2e`, or `make e2e-existing`."""
