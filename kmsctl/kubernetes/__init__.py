"""Kubernetes' own files, and what kmsd needs of them: `encryption_rules` reads an EncryptionConfiguration by
kube-apiserver's rules, `kube_apiserver` its static pod, `static_pod_patch` changes that, `preflight` checks a node, and
`manifests` writes what ships for a cluster with a site's own names in it. Knows no command and shows nothing."""
