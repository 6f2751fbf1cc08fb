"""A rotation as kmsctl runs it: done, watched until every kube-apiserver has followed, and shown."""
