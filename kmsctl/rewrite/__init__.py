"""Stored objects written anew by kube-apiserver, so that they come under the present write key.

Knows the Kubernetes API; etcd and kmsd only by what it is told to rewrite.
"""
