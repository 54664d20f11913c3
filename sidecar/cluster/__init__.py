"""The Kubernetes cluster around the pod."""
