"""The Kubernetes API: the pods, Job and MiniCluster of this server's instance."""
