"""The commands of kmsctl: the one list of them, and a module for each noun.

A command's module is loaded when the command runs, or its own help is asked for: `kmsctl --help` needs this list alone.
"""

from __future__ import annotations

from typing import NamedTuple


class Command(NamedTuple):
    """A command, or a group of them.

    place: the module below this package and its function, as "status:status". In that function's docstring, which is
    the help, {command} stands for the words that the command is called by.
    short_help: what the list of commands says of it.
    commands: those of a group; its function runs before them.
    """

    name: str
    place: str
    short_help: str
    commands: tuple[Command, ...] = ()


COMMANDS = (
    Command("status", "status:status", "Show how kmsd is: state, key, token, problems."),
    Command("health", "health:health", "Say ok, or why not; with --wait, wait for it."),
    Command("targets", "targets:targets", "Show several kmsd side by side, the odd one first."),
    Command("tenants", "tenants:tenants", "Show the tenants of a key manager."),
    Command("peers", "peers:peers", "Show who calls a key manager, by their certificates."),
    Command("slots", "slots:slots", "List the slots and tokens that kmsd sees."),
    Command("mechanisms", "mechanisms:mechanisms", "List what a token can do."),
    Command("unlock", "unlock:unlock", "Have kmsd log in to a token once more."),
    Command("doctor", "doctor:doctor", "Try what a token can really do, and say what to mend."),
    Command(
        "keys",
        "keys:keys",
        "List, make, name, test, retire and destroy keys.",
        (
            Command("list", "keys:list_", "List the keys on the token."),
            Command("show", "keys:show", "Show all that is known of one key."),
            Command("test", "keys:try_key", "Encrypt and decrypt with a key, and time it."),
            Command("generate", "keygen:keygen", "Make a key on the token; as `kmsctl keygen`."),
            Command("adopt", "keys_change:adopt", "Give a key id to a key that lacks one."),
            Command("relabel", "keys_change:relabel", "Give a key another label."),
            Command("destroy", "keys_change:destroy", "Destroy a key on the token, for good."),
            Command("retire", "keys_retire:retire", "Mark a key that nothing needs any more."),
            Command("revert", "keys_retire:revert", "Make a new write key after a bad rotation."),
        ),
    ),
    Command("keygen", "keygen:keygen", "Make a key on the token."),
    Command("rotate", "rotate:rotate", "Make a new write key; --watch: follow it to the end."),
    Command(
        "ca",
        "ca:ca",
        "The certificate authority of nodes, with its key on the token.",
        (
            Command("init", "ca_own:init", "Make the CA's key, and its certificate or a request for one."),
            Command("import", "ca_own:import_", "Give the CA a certificate that a CA above made."),
            Command("show", "ca:show", "Show the CA and what it issued."),
            Command("issue", "ca:issue", "Issue the certificate of a node."),
            Command("revoke", "ca:revoke", "Revoke certificates."),
            Command("crl", "ca:crl", "Print the list of revocations."),
            Command("roll", "ca_own:roll", "Have a new key sign, beside the old one."),
        ),
    ),
    Command(
        "jwt",
        "jwt:jwt",
        "Show and change the keys that sign service account tokens.",
        (
            Command("keys", "jwt:keys", "List the keys, and who has fetched them."),
            Command("show", "jwt:show", "Show all that is known of one key."),
            Command("export", "jwt:export", "Print the public keys as JWKS or PEM."),
            Command("import", "jwt_outside:import_", "Take the private key of a file into the token."),
            Command("trust", "jwt_outside:trust", "Publish public keys from outside."),
            Command("untrust", "jwt_outside:untrust", "Publish a public key from outside no more."),
            Command("rotate", "jwt_rotate:rotate", "Have a new key sign; --watch: to the end."),
            Command("revert", "jwt_rotate:revert", "Have the key before sign again."),
            Command("retire", "jwt_rotate:retire", "Publish a key no more, for good."),
        ),
    ),
    Command("encrypt", "crypt:encrypt", "Encrypt a file or stdin, as kube-apiserver would."),
    Command("decrypt", "crypt:decrypt", "Decrypt a file or stdin."),
    Command("inspect", "inspect:inspect", "Explain a ciphertext or a stored value."),
    Command("stats", "stats:stats", "Show requests, latencies, errors and sessions; --watch: live."),
    Command("bench", "bench:bench", "Measure what the token can do, and how many sessions are worth it."),
    Command("requests", "requests:requests", "Show the calls that kmsd answers."),
    Command(
        "etcd",
        "etcd:etcd",
        "Count what etcd holds, per key.",
        (Command("scan", "etcd:scan", "Count stored objects per key."),),
    ),
    Command(
        "migrate",
        "migrate:migrate",
        "Move over from k8s-kms-plugin.",
        (
            Command("plan", "migrate:plan", "Say what replaces a k8s-kms-plugin, and in which steps."),
            Command("status", "migrate:status", "Count what is still in a foreign format."),
        ),
    ),
    Command(
        "k8s",
        "k8s:k8s",
        "Write what Kubernetes needs of kmsd, and check a node.",
        (
            Command(
                "manifest",
                "k8s_manifest:manifest",
                "Write what ships for Kubernetes, with your names in it.",
                (
                    Command("standalone", "k8s_manifest:standalone", "Write the static pod of a kmsd with a token."),
                    Command("proxy", "k8s_manifest:proxy", "Write the static pod of a proxy."),
                    Command("key-manager", "k8s_manifest:key_manager", "Write a key manager for other clusters."),
                    Command(
                        "encryption-config",
                        "k8s_manifest:encryption_config",
                        "Write kube-apiserver's EncryptionConfiguration.",
                    ),
                ),
            ),
            Command("check", "k8s:check", "Check a control-plane node; change nothing."),
            Command(
                "apply-patch", "k8s_patch:apply_patch", "Show what kube-apiserver's static pod lacks; write it if told."
            ),
        ),
    ),
    Command(
        "audit",
        "audit:audit",
        "Show and check the audit trail.",
        (
            Command("tail", "audit:tail", "Show the last records, and with -f those to come."),
            Command("verify", "audit:verify", "Check that no record was changed, dropped or moved."),
            Command("acknowledge", "audit:acknowledge", "Put away what other programs were seen to do to the trail."),
        ),
    ),
    Command(
        "config",
        "config:config",
        "Show the settings in force.",
        (Command("view", "config:view", "Show every setting and where it came from."),),
    ),
    Command(
        "enrol",
        "enrol:enrol",
        "Get this machine a certificate; let nodes enrol.",
        (
            Command("token", "enrol_tokens:token", "Make a token for a node's first certificate."),
            Command("tokens", "enrol_tokens:tokens", "List the tokens."),
            Command("revoke-token", "enrol_tokens:revoke_token", "Have a token count no more."),
            Command("pending", "enrol_requests:pending", "List the requests that wait for you."),
            Command("approve", "enrol_requests:approve", "Approve a request."),
            Command("deny", "enrol_requests:deny", "Deny a request."),
        ),
    ),
    Command(
        "store",
        "store:store",
        "Check and copy what key managers share.",
        (
            Command("check", "store:check", "Look whether the store is well."),
            Command("backup", "store:backup", "Copy the store into a file."),
        ),
    ),
    Command("log-level", "loglevel:log_level", "Show or change how much kmsd logs."),
    Command("tui", "tui:tui", "Watch kmsd in the terminal (kmstui)."),
    Command("completion", "completion:completion", "Print the completion script of a shell."),
    Command("version", "version:version", "Show the versions of kmsctl and kmsd."),
    Command("help", "help:help_", "Explain kmsctl, a command, or a topic such as exit-codes."),
)
