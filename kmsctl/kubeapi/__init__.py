"""A kube-apiserver as kmsctl reaches it: a kubeconfig, its credentials, requests with bounds, and what is served.

Loaded only where objects are rewritten. Knows nothing of keys, of etcd and of rotations.
"""
